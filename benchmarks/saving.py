"""How long a checkpoint takes, beside a step and beside the 30 s after which DeepSpeed kills ranks it has told to stop.

    python -m benchmarks.saving [--layers 12] [--width 768]

A GPT-2 of the given size is trained for a few steps, with a checkpoint of weights and moments after each. Of a
checkpoint, writing the engine's files is told apart from what follows: hashing, flushing, renaming.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.measure import Section
from pipeline.config import load_config
from pipeline.engine import Engine
from pipeline.keeper import SECONDS_BEFORE_KILL
from pipeline.train import train
from tests.tiny import write_recipe

NUM_STEPS = 6
VOCABULARY = 50257


def measure(layers: int, width: int) -> dict[str, Any]:
    """Train and save; return medians, the first checkpoint left out."""
    sizes = {"n_layer": layers, "n_embd": width, "n_head": width // 64, "n_positions": 64, "vocab_size": VOCABULARY}
    writing, stepping = [], []
    save, step = Engine.save, Engine.train_step

    def timed_save(self: Engine, folder: Path) -> None:
        begin = time.perf_counter()
        save(self, folder)
        writing.append(time.perf_counter() - begin)

    def timed_step(self: Engine, *arguments: Any) -> Any:
        begin = time.perf_counter()
        metrics = step(self, *arguments)
        stepping.append(time.perf_counter() - begin)
        return metrics

    Engine.save, Engine.train_step = timed_save, timed_step  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory(dir=".") as folder:
        recipe = write_recipe(
            Path(folder),
            model__from_scratch={"model_type": "gpt2", **sizes},
            schedule__max_steps=NUM_STEPS,
            schedule__hold_epochs=9,
            run__checkpoint_every=1,
            run__keep_checkpoints=1,
            optim__global_batch_size=32,
            engine__micro_batch_tokens=2048,
            engine__num_threads=2,
        )
        train(load_config(recipe))
        rows = map(json.loads, (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines())
        whole = [row["seconds"] for row in rows if row["kind"] == "checkpoint"]
        (checkpoint,) = (Path(folder) / "run" / "checkpoints").glob("step_*")
        size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    Engine.save, Engine.train_step = save, step  # type: ignore[method-assign]
    seconds = statistics.median(whole[1:])
    return {
        "GB": size / 1e9,
        "step s": statistics.median(stepping[1:]),
        "checkpoint s": seconds,
        "of which writing s": statistics.median(writing[1:]),
        "GB/s": size / 1e9 / seconds,
        f"GB in {SECONDS_BEFORE_KILL} s": size / 1e9 / seconds * SECONDS_BEFORE_KILL,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    arguments = parser.parse_args()
    section = Section(f"A checkpoint of a GPT-2 of {arguments.layers} layers, width {arguments.width}")
    section.rows.append(measure(arguments.layers, arguments.width))
    section.print(Console(width=150))


if __name__ == "__main__":
    main()
