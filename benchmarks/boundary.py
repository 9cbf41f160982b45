"""What the end of a stage costs: optimizer reset and new dataloader, against the stage's own time, and in memory.

    python -m benchmarks.boundary

The paper's first task (808,000 rows, 8 tokens an epoch) with GPT-2 Small and random weights, through the stage
controller and the engine that training uses: one CPU rank of two threads under ZeRO-0, two ranks of one thread under
ZeRO-2 and ZeRO-3. Steps are timed where they are shortest, so that a boundary's share is overstated: with the whole CoT
gone, and an eighth of the paper's 32 rows, as many steps a stage as it has.

Memory is looked at in other processes, with a small model and the same table: passes through all stages, a step each,
until the optimizer has been reset 200 times.
"""

import argparse
import ctypes
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.measure import Section
from benchmarks.ranks import Ranks

NUM_CROSSINGS, NUM_STEPS = 5, 3
ROWS, PAPER_ROWS = 4, 32  # of a step
MAX_SHARE = 0.01  # of a stage's time
FEW_RESETS, MANY_RESETS = 20, 200
STEPS_BETWEEN_RESETS = 1
MAX_GROWTH = 4 * 2**20  # bytes, between the two: 23 kB a reset, where a loader that is not let go would be 13 MB
NO_FLIGHT_RECORDER = {"TORCH_FR_BUFFER_SIZE": "0"}  # PyTorch's record of the last collectives fills up at first


def run() -> list[Section]:
    """Measure time, and memory over many resets, under each ZeRO stage.

    Raises:
        RuntimeError: If a boundary takes over 1 % of its stage, or memory, file handles or threads grow with resets.
    """
    from benchmarks.paper_rows import ZERO_STAGES, write_rows

    seconds = Section(
        "Boundary: optimizer reset and dataloader over 808,000 rows, GPT-2 Small",
        f"Slowest rank; median of {NUM_CROSSINGS} boundaries, {NUM_STEPS} steps. Loader: with its first batch. Share: "
        "of a stage at the paper's pace, rows at their shortest. 1 % at: so short a step would bring the share to 1 %.",
    )
    memory = Section(
        f"Boundary: what a process holds after {FEW_RESETS} and after {MANY_RESETS} resets, small model, 808,000 rows",
        "Of the rank that grew most. PyTorch's record of the last 2,000 collectives, which fills up at first, is off.",
    )
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder))
        with ExitStack() as stack:  # all at once: nothing is timed here
            groups = {zero: stack.enter_context(_ranks(zero, folder, NO_FLIGHT_RECORDER)) for zero in ZERO_STAGES}
            for group in groups.values():
                group.tell("count")
            memory.rows += [memory_row(zero, group.answers()) for zero, group in groups.items()]
        for zero in ZERO_STAGES:
            with _ranks(zero, folder) as group:
                seconds.rows.append(seconds_row(zero, group.ask("measure")))
    check(seconds, memory)
    return [seconds, memory]


def num_ranks(zero: int) -> int:
    """Return on how many ranks a ZeRO stage is measured."""
    return 2 if zero else 1


def _ranks(zero: int, folder: str, environment: Mapping[str, str] | None = None) -> Ranks:
    return Ranks(commands, (Path(folder), zero), num_ranks(zero), environment)


def seconds_row(zero: int, answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the line on time from what each rank saw."""

    def slowest(what: str) -> float:
        return max(statistics.median(answer[what]) for answer in answers)

    boundary, step, num_steps = slowest("boundary"), slowest("step"), answers[0]["steps_of_stage"] * ROWS // PAPER_ROWS
    return {
        "ZeRO": zero,
        "ranks": num_ranks(zero),
        "reset s": slowest("reset"),
        "loader s": slowest("loader"),
        "together s": boundary,
        "step s": step,
        "steps a stage": num_steps,
        "share %": 100 * boundary / (num_steps * step),
        "1 % at, ms a step": 1000 * boundary / (num_steps * MAX_SHARE),
    }


def memory_row(zero: int, answers: list[dict[str, dict[str, int]]]) -> dict[str, Any]:
    """Return the line on memory from what each rank saw."""
    worst = max(answers, key=lambda answer: answer["many"]["bytes"] - answer["few"]["bytes"])
    few, many = worst["few"], worst["many"]
    return {
        "ZeRO": zero,
        "ranks": num_ranks(zero),
        f"MiB at {FEW_RESETS}": few["bytes"] / 2**20,
        "grown, MiB": (many["bytes"] - few["bytes"]) / 2**20,
        f"file handles at {FEW_RESETS}": few["handles"],
        "grown by": many["handles"] - few["handles"],
        f"threads at {FEW_RESETS}": few["threads"],
        "grown by ": many["threads"] - few["threads"],
    }


def check(seconds: Section, memory: Section) -> None:
    """Compare with what was promised.

    Raises:
        RuntimeError: If a line breaks the promise.
    """
    for row in seconds.rows:
        if row["share %"] > 100 * MAX_SHARE:
            raise RuntimeError(
                f"ZeRO-{row['ZeRO']}: a boundary takes {row['share %']:.2f} % of its stage, over {MAX_SHARE:.0%}."
            )
    for row in memory.rows:
        if row["grown, MiB"] * 2**20 > MAX_GROWTH or row["grown by"] > 0 or row["grown by "] > 0:
            raise RuntimeError(
                f"ZeRO-{row['ZeRO']}: a process grows with resets, by more than {MAX_GROWTH} bytes: {row}."
            )


def measure_seconds(folder: Path, zero: int) -> dict[str, Any]:
    """Time boundaries and steps as one rank, with GPT-2 Small."""
    from benchmarks.paper_rows import GPT2_SMALL, open_run, recipe

    config = recipe(zero, GPT2_SMALL, num_threads=2 // num_ranks(zero), global_batch_size=ROWS)
    engine, controller = open_run(folder, config)
    steps_of_stage = round(controller.steps_per_epoch / config.schedule.removed_per_epoch)
    last_boundary = controller.longest_cot * steps_of_stage
    seconds: dict[str, list[float]] = {"reset": [], "loader": [], "boundary": [], "step": []}

    controller.restore(last_boundary, controller.state())
    _, batches = next(controller.stages())
    for step in range(1 + NUM_STEPS):  # the first makes the moments
        begin = time.perf_counter()
        metrics = engine.train_step(next(batches), controller.learning_rate)
        if step:
            seconds["step"].append(time.perf_counter() - begin)
        controller.after_step(metrics)

    for _ in range(NUM_CROSSINGS):
        controller.restore(last_boundary - 1, controller.state())
        stages = controller.stages()
        _, batches = next(stages)
        next(batches)
        controller.after_step(metrics)
        begin = time.perf_counter()
        assert next(batches, None) is None
        stage, batches = next(stages)
        after_reset = time.perf_counter()
        next(batches)
        end = time.perf_counter()
        assert stage.removes_all and controller.reset_step == stage.first_step == last_boundary
        assert not any(state["exp_avg_sq"].any() for _, state in engine.optimizer_state())
        for what, taken in (("reset", after_reset - begin), ("loader", end - after_reset), ("boundary", end - begin)):
            seconds[what].append(taken)
    return {**seconds, "steps_of_stage": steps_of_stage}


def count_over_resets(folder: Path, zero: int) -> dict[str, dict[str, int]]:
    """Go through the stages as one rank, again and again, and look at the process after few and after many resets."""
    from benchmarks.paper_rows import GPT2_TINY, NUM_ROWS, open_run, recipe

    config = recipe(zero, GPT2_TINY, num_threads=1, global_batch_size=8)
    steps_per_epoch = NUM_ROWS // config.optim.global_batch_size
    pace = steps_per_epoch / STEPS_BETWEEN_RESETS
    schedule = replace(config.schedule, removed_per_epoch=pace, final_epochs=1 / pace)
    engine, controller = open_run(folder, replace(config, schedule=schedule))
    begin, num_resets, few = controller.state(), 0, {}
    while True:
        controller.restore(0, begin)
        for stage, batches in controller.stages():
            for batch in batches:
                controller.after_step(engine.train_step(batch, controller.learning_rate))
            num_resets += stage.resets_optimizer
            if num_resets == FEW_RESETS:
                few = process_state()
            elif num_resets == MANY_RESETS:
                return {"few": few, "many": process_state()}


def process_state() -> dict[str, int]:
    """Return what this process holds: bytes of memory that is no file's, open file handles, threads."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back
    with open("/proc/self/status", encoding="utf-8") as file:
        fields = dict(line.split(":", 1) for line in file)
    handles = len(os.listdir("/proc/self/fd"))
    return {"bytes": int(fields["RssAnon"].split()[0]) * 1024, "handles": handles, "threads": int(fields["Threads"])}


def commands(folder: Path, zero: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return what a rank can be told."""
    return {"measure": lambda: measure_seconds(folder, zero), "count": lambda: count_over_resets(folder, zero)}


def main() -> None:
    """Print the tables."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for section in run():
        section.print(Console(width=150))


if __name__ == "__main__":
    main()
