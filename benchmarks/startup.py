"""Seconds from the command to its answer, or to the first training step.

python -m benchmarks.startup [--repeats 5]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from benchmarks.measure import Section, Timing
from pipeline.records import write_lines
from pipeline.tasks import Automaton, generate_splits

ROOT = Path(__file__).parents[1]
TACIT = (sys.executable, "-m", "pipeline")
# Of every recipe that is shipped, Mistral 7B's needs the most to plan; its shape is here, so that no hub is asked.
PLAN = ("plan", "--config", "recipes/gsm8k_mistral_7b.yaml", "--lengths", "378000,61,80,9")
SHAPE = ("--model.name_or_path", "recipes/architectures/mistral-7b")
AIMS = {
    "tacit --help": 1,
    "tacit plan, Mistral 7B, first": 5,
    "tacit plan, Mistral 7B, later": 5,
    "demo, first step, nothing cached": 15,
}
# The demo's lock: of the digits, 7, 8 and 9 turn it by 1, 2 and 3.
LOCK = tuple(tuple((state + max(digit - 6, 0)) % 4 for digit in range(10)) for state in range(4))
SECONDS_BETWEEN_LOOKS = 0.01


def run(repeats: int = 5) -> list[Section]:
    """Start every command ``repeats`` times, each in turn; a plan of which nothing was measured before, once."""
    section = Section(
        "Start-up",
        f"Seconds of wall time from the start of the process, median (extremes) of {repeats} turns; the first plan is "
        "started once, later ones find what it measured.",
    )
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, split in generate_splits([Automaton(LOCK, 12)], 100_000, 1_000, 0, seed=0).items():
            write_lines(Path(folder) / f"{name}.txt", split.text_lines())
        seconds["tacit plan, Mistral 7B, first"] = [_seconds_to_plan(Path(folder))]
        for turn in range(repeats):
            for name, value in _starts(Path(folder), turn):
                seconds.setdefault(name, []).append(value)
    for name, values in seconds.items():
        timing = Timing(tuple(values))
        spread = f"{timing.median:.2f}" + (f" ({min(values):.2f}-{max(values):.2f})" if len(values) > 1 else "")
        section.rows.append({"command": name, "seconds": spread, "at most": AIMS.get(name, "")})
    return [section]


def _starts(folder: Path, turn: int) -> Iterator[tuple[str, float]]:
    yield "tacit --help", _seconds_of("--help")
    yield "tacit plan, Mistral 7B, later", _seconds_to_plan(folder)
    yield "demo, first step, nothing cached", _seconds_to_first_step(folder, f"cache_{turn}")


def _seconds_of(*arguments: str) -> float:
    begin = time.perf_counter()
    subprocess.run([*TACIT, *arguments], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - begin


def _seconds_to_plan(folder: Path) -> float:
    return _seconds_of(*PLAN, *SHAPE, "--data.cache_dir", str(folder / "plans"))


def _seconds_to_first_step(folder: Path, cache: str) -> float:
    """Start the demo's training, and stop it when it has written down its first step."""
    with tempfile.TemporaryDirectory() as run_dir:
        metrics = Path(run_dir) / "metrics.jsonl"
        settings = {
            "data.train": folder / "train.txt",
            "data.validation": folder / "validation.txt",
            "data.cache_dir": folder / cache,
            "run.output_dir": run_dir,
            "run.log_every": 1,
        }
        command = [*TACIT, "train", "--config", "recipes/demo.yaml", "--overwrite"]
        command += [text for name, value in settings.items() for text in (f"--{name}", str(value))]
        begin = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not (metrics.exists() and "\n" in metrics.read_text()):
                if process.poll() is not None:
                    raise RuntimeError(f"ended with {process.returncode} before its first step: {' '.join(command)}")
                time.sleep(SECONDS_BETWEEN_LOOKS)
            seconds = time.perf_counter() - begin
            assert json.loads(metrics.read_text().splitlines()[0])["step"] == 1
            return seconds
        finally:
            process.kill()
            process.wait()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="Turns (default: 5).")
    for section in run(parser.parse_args().repeats):
        section.print(Console())


if __name__ == "__main__":
    main()
