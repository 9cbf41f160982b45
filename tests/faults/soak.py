"""Trains for half an hour across many stages and looks for growth: `python -m tests.faults.soak`.

Every stage is evaluated, and most are saved. Anonymous memory, file handles and threads of the process are sampled from
outside, step times are taken from its own record; slopes are fitted to all but the first fifth of the run.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from pipeline.records import write_records
from pipeline.tasks import Automaton, generate_splits
from tests.tiny import ROOT, shell_environment, write_recipe

SECONDS_BETWEEN_SAMPLES = 2.0
WARM_UP = 0.2  # share of the run that is left out: caches fill there
NUM_TOKENS = 60  # in the chain of thought: as many stages
NUM_ROWS = 16  # in a batch
LOCK = ((0, 1), (1, 2), (2, 0))


@dataclass(frozen=True)
class Soak:
    """What was seen."""

    minutes: float
    steps: int
    stages: int
    evaluations: int
    checkpoints: int
    exit_code: int
    memory_mib: float
    """Anonymous memory at the end."""
    memory_mib_per_hour: float
    handles: tuple[int, int]
    """Fewest and most after the warm-up."""
    threads: tuple[int, int]
    milliseconds_per_step: float
    milliseconds_per_step_and_hour: float
    """Growth of the time of a step; rows become shorter, so below zero is as it should be."""


def soak(folder: Path, minutes: float, steps_per_stage: int) -> Soak:
    """Train for so many minutes, or to the end of the last stage."""
    settings = {
        "model__from_scratch": {"model_type": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 160},
        "schedule__removed_per_epoch": 2048 / NUM_ROWS / steps_per_stage,
        "schedule__hold_epochs": 0,
        "schedule__remove_all_beyond": None,
        "schedule__final_epochs": 1000,
        "optim__global_batch_size": NUM_ROWS,
        "engine__micro_batch_tokens": 16384,
        "evaluation__every_stages": 1,
        "evaluation__num_examples": 64,
        "run__log_every": 20,
    }
    recipe = write_recipe(folder, **settings)
    for name, rows in generate_splits([Automaton(LOCK, NUM_TOKENS)], 2048, 64, 8, seed=0).items():
        write_records(folder / f"{name}.txt", rows)
    command = [sys.executable, "-m", "pipeline", "train", "--config", str(recipe)]
    begin = time.monotonic()
    with (folder / "log.txt").open("w") as log:
        process = psutil.Popen(command, cwd=ROOT, env=shell_environment(), stdout=log, stderr=subprocess.STDOUT)
    samples = []
    while process.poll() is None and time.monotonic() - begin < 60 * minutes:
        samples.append((time.monotonic() - begin, _anonymous_mib(process), process.num_fds(), process.num_threads()))
        time.sleep(SECONDS_BETWEEN_SAMPLES)
    elapsed = time.monotonic() - begin
    process.send_signal(signal.SIGTERM)
    code = process.wait(120)
    if not (folder / "run" / "metrics.jsonl").exists():
        raise RuntimeError((folder / "log.txt").read_text())
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return _summary(samples, rows, elapsed, code)


def _summary(
    samples: list[tuple[float, float, int, int]], rows: list[dict[str, Any]], elapsed: float, code: int
) -> Soak:
    seconds, memory, handles, threads = (np.array(column) for column in zip(*samples, strict=True))
    late = seconds > WARM_UP * elapsed
    train = [row for row in rows if row["kind"] == "train"]
    steps = np.array([row["step"] for row in train])
    per_step = 1000 * NUM_ROWS / np.array([row["examples_per_second"] for row in train])
    late_steps = steps > WARM_UP * steps[-1]
    hours_of_steps = steps / steps[-1] * elapsed / 3600
    return Soak(
        minutes=round(elapsed / 60, 1),
        steps=int(steps[-1]),
        stages=len({row["stage"] for row in train}),
        evaluations=sum(row["kind"] == "evaluation" for row in rows),
        checkpoints=sum(row["kind"] == "checkpoint" for row in rows),
        exit_code=code,
        memory_mib=round(float(memory[-1]), 1),
        memory_mib_per_hour=_slope(seconds[late] / 3600, memory[late]),
        handles=(int(handles[late].min()), int(handles[late].max())),
        threads=(int(threads[late].min()), int(threads[late].max())),
        milliseconds_per_step=round(float(np.median(per_step[late_steps])), 2),
        milliseconds_per_step_and_hour=_slope(hours_of_steps[late_steps], per_step[late_steps]),
    )


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    return round(float(np.polyfit(x, y, 1)[0]), 2)


def _anonymous_mib(process: psutil.Process) -> float:
    with open(f"/proc/{process.pid}/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("RssAnon"))


def main() -> None:
    """Train, print what was seen as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--steps_per_stage", type=int, default=256)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asdict(soak(Path(folder), arguments.minutes, arguments.steps_per_stage))))


if __name__ == "__main__":
    main()
