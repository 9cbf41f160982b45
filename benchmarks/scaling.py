"""Two ranks against one: tokens a second and bytes sent, under ZeRO-0, ZeRO-2 and ZeRO-3.

    python -m benchmarks.scaling

GPT-2 Small with random weights in fp32, steps of 4 rows of 4x4 multiplication whatever the number of ranks, one thread
a rank. The processes of one rank and of two stand side by side and take turns; who does not work waits.
"""

import argparse
import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks.measure import Section, Spread, take_turns

ROWS, REPEATS = 4, 5
BYTES_SENT_AT = 200  # tcpi_bytes_sent in struct tcp_info, linux/tcp.h
FP32_BYTES = 4


def run() -> list[Section]:
    """Measure each ZeRO stage in turn."""
    from benchmarks.paper_rows import ZERO_STAGES, write_rows

    section = Section(
        f"Scaling on one machine: 2 ranks x 1 thread against 1 rank x 1 thread, GPT-2 Small, {ROWS} rows a step, fp32",
        f"Medians of {REPEATS} turns, extremes in brackets. Efficiency: tokens/s of 2 ranks over twice those of 1. MB: "
        "sent by each rank in a step; computed from what DeepSpeed does over gloo, seen in the kernel's count for the "
        "rank's own TCP sockets (every collective of a step with gloo's headers; no TCP/IP headers, no other process). "
        "Others' cores: that other processes took meanwhile; near 0, or the efficiency is not to be trusted.",
    )
    with tempfile.TemporaryDirectory() as name:
        write_rows(Path(name))
        for zero in ZERO_STAGES:
            section.rows.append(row(zero, name))
    return [section]


def row(zero: int, folder: str) -> dict[str, Any]:
    """Measure one ZeRO stage."""
    from benchmarks.ranks import Ranks

    arguments = (Path(folder), zero)
    with Ranks(commands, arguments, 1) as one, Ranks(commands, arguments, 2) as two:
        for ranks in (one, two):  # both load, and do a first step that is not counted
            ranks.tell("step")
        for ranks in (one, two):
            ranks.answers()
        answers: dict[str, list[dict[str, int]]] = {}

        def step(name: str, ranks: Ranks) -> None:
            answers[name] = ranks.ask("step")

        begin, before = time.perf_counter(), busy_seconds() - one.cpu_seconds() - two.cpu_seconds()
        timings = take_turns({"1": lambda: step("1", one), "2": lambda: step("2", two)}, REPEATS, warm_up=0)
        others = busy_seconds() - one.cpu_seconds() - two.cpu_seconds() - before
        elapsed = time.perf_counter() - begin
    speed_up = timings["2"].speed_up_over(timings["1"])
    tokens, sent = answers["1"][0]["tokens"], max(answer["sent"] for answer in answers["2"])
    return {
        "ZeRO": zero,
        "tokens/s, 1 rank": tokens / timings["1"].median,
        "tokens/s, 2 ranks": tokens / timings["2"].median,
        "efficiency": str(Spread(speed_up.median / 2, speed_up.low / 2, speed_up.high / 2)),
        "MB computed": step_bytes(zero, answers["1"][0]["weights"], 2, FP32_BYTES) / 1e6,
        "MB seen": sent / 1e6,
        "others' cores": others / elapsed,
    }


def busy_seconds() -> float:
    """Return the processor time that all processes of this machine have taken so far."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait


def step_bytes(zero: int, num_weights: int, num_ranks: int, element_bytes: int) -> float:
    """Return what each rank sends in a step of one micro-batch, over gloo, with a model that fits ZeRO-3's distances.

    DeepSpeed 0.19 sums gradients by all-reduce under ZeRO-0 and, bucket by bucket, under ZeRO-2 too
    (use_multi_rank_bucket_allreduce), which then gathers the updated weights. ZeRO-3 gathers the weights before the
    forward pass, keeps them for the backward pass if they are no more than stage3_max_reuse_distance, and asks for a
    reduce-scatter, which PyTorch's gloo backend does by an all-reduce (NCCL sends half of that).

    Args:
        zero: ZeRO stage.
        num_weights: Of the model, all trained.
        num_ranks: That share the work.
        element_bytes: Of a weight and of a gradient.
    """
    all_gather = (num_ranks - 1) / num_ranks * num_weights * element_bytes
    all_reduce = 2 * all_gather
    return all_reduce + (all_gather if zero >= 2 else 0)


def bytes_sent() -> int:
    """Return what this process has sent so far through the TCP connections that it has open."""
    total = 0
    for handle in os.listdir("/proc/self/fd"):
        try:
            is_socket = os.readlink(f"/proc/self/fd/{handle}").startswith("socket:")
        except FileNotFoundError:  # the listing's own
            continue
        if is_socket:
            with socket.socket(fileno=os.dup(int(handle))) as connection:
                if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
                    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_SENT_AT + 8)
                    total += struct.unpack_from("Q", info, BYTES_SENT_AT)[0]
    return total


def steps(folder: Path, zero: int) -> Iterator[dict[str, int]]:
    """Train as one rank; yields after each step what this rank sent meanwhile."""
    from benchmarks.paper_rows import GPT2_SMALL, open_run, recipe

    engine, controller = open_run(folder, recipe(zero, GPT2_SMALL, num_threads=1, global_batch_size=ROWS))
    num_weights = sum(getattr(weight, "ds_numel", weight.numel()) for weight in engine.model.parameters())
    for _, batches in controller.stages():
        for batch in batches:
            before = bytes_sent()
            controller.after_step(engine.train_step(batch, controller.learning_rate))
            yield {"tokens": batch.num_tokens, "sent": bytes_sent() - before, "weights": num_weights}


def commands(folder: Path, zero: int) -> dict[str, Callable[[], dict[str, int]]]:
    """Return what a rank can be told."""
    answers = steps(folder, zero)
    return {"step": lambda: next(answers)}


def main() -> None:
    """Print the table."""
    from rich.console import Console

    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for section in run():
        section.print(Console(width=150))


if __name__ == "__main__":
    main()
