"""Every speed figure in one run: `make bench`.

    python -m benchmarks                      # all tables, printed and written to runs/bench/DATE.json
    python -m benchmarks training evaluation  # some

Both sides of a ratio take turns in the same process, on the same rows with the same weights, and must come to the same
losses and verdicts; a difference stops the run. Keep the machine quiet meanwhile.
"""

import argparse
import importlib
import json
import time
from datetime import datetime
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.measure import machine

SECTIONS = ("startup", "training", "evaluation", "data", "boundary", "scaling")


def main() -> None:
    """Run the sections, print and store their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"Some of {', '.join(SECTIONS)}; all if none.")
    parser.add_argument("--threads", type=int, default=2, help="Threads of the sections with one process.")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/bench"), help="Where the JSON goes.")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"{', '.join(unknown)}: not among {', '.join(SECTIONS)}.")

    torch.set_num_threads(arguments.threads)
    console = Console(width=150)
    results = {"machine": machine(), "sections": []}
    begin = time.monotonic()
    for name in arguments.sections or SECTIONS:
        for section in importlib.import_module(f"benchmarks.{name}").run():
            section.print(console)
            results["sections"].append(section.to_json())
        console.print(f"{name} done after {(time.monotonic() - begin) / 60:.1f} min", style="dim")
    results["minutes"] = round((time.monotonic() - begin) / 60, 1)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    path = arguments.output_dir / f"{datetime.now():%Y-%m-%d_%H%M%S}.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
