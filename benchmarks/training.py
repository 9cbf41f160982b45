"""Training examples per second: ours against the baseline, against what the count of work allows, and the matmul limit.

    python -m benchmarks.training [--models demo] [--tasks gsm8k] [--repeats 5] [--threads 2] [--precision bf16]

Both do the same optimizer step on the same rows, with the same weights, in turn, and must find the same loss: to 1e-4
in fp32, to 1e-2 in bf16. On a GPU, where there is one, with more rows.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from rich.console import Console
from transformers import PreTrainedModel

from benchmarks.baseline import BaselineTrainer
from benchmarks.measure import DEVICE, MatrixProduct, Section, Timing, memory_bandwidth, take_turns, where
from benchmarks.row_lengths import examples_like
from benchmarks.shapes import SHAPES, random_model
from pipeline.batching import RemovalRule, StepBatch, StepDataset
from pipeline.config import EngineConfig, LoraConfig, ModelConfig, OptimConfig, RemovalConfig
from pipeline.engine import Engine, build_engine, init_distributed
from pipeline.flops import training_flops
from pipeline.model_size import ModelSize
from pipeline.modeling.activation import fuse_gelu
from pipeline.modeling.fake_model import build_fake_model
from pipeline.modeling.packed_attention import PACKED_SDPA
from pipeline.plan.live_bytes import LiveBytes
from pipeline.schedule import Stage

Precision = Literal["fp32", "bf16"]
# Rows of a global batch: few, so that a step is short enough to be repeated; the small model's fill 2,000 tokens.
TASKS = ("4x4", "9x9", "gsm8k")
NUM_ROWS = {"GPT-2 Small": (2, 1, 3), "Mistral 60M": (4, 1, 8), "demo": (30, 6, 16)}  # in the order of TASKS
MICRO_BATCH_TOKENS = 2000
SCALE = 32 if DEVICE.type == "cuda" else 1  # of rows and micro-batches: with few tokens a GPU waits for its host
REMOVED = {"full CoT": 0.0, "half removed": 0.5, "all removed": 1.0}
TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}  # of a loss of about ln(vocabulary)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Work:
    """What a step has to do at least."""

    flops: float
    moved_bytes: float
    """To and from memory."""

    def seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """Return the time that a machine needs which does one after the other at full speed."""
        return self.flops / flops_per_second + self.moved_bytes / bytes_per_second


def run(
    repeats: int = 5,
    models: Sequence[str] = tuple(SHAPES),
    tasks: Sequence[str] = TASKS,
    precision: Precision = "fp32",
) -> list[Section]:
    """Measure models on tasks at three stages.

    Args:
        repeats: Turns that count.
        models: Some of ``SHAPES``.
        tasks: Some of ``TASKS``.
        precision: Of matrix products; weights that AdamW updates are fp32 on both sides.

    Raises:
        AssertionError: If the losses differ by more than ``TOLERANCE``.
    """
    init_distributed()
    bandwidth = memory_bandwidth()
    section = Section(
        "Training",
        f"Examples/s over the baseline's, median (extremes) of {repeats} turns, {where()}, {precision}, "
        "allowed: by the count of FLOPs and bytes. MFU: of a matrix product measured in the same turns. "
        f"Losses equal to {TOLERANCE[precision]}.",
    )
    for name in models:
        for row in measure_model(name, tasks, bandwidth, repeats, precision):
            section.rows.append(row)
            Console(stderr=True).print(row, highlight=False)
    return [section]


def measure_model(
    name: str, tasks: Sequence[str], bandwidth: float, repeats: int, precision: Precision
) -> Iterator[dict[str, Any]]:
    """Measure one model; its weights are shared by nobody, since both sides keep an optimizer state for them."""
    plain, engine = random_model(SHAPES[name]).to(DEVICE), _engine(name, precision)
    config, product = plain.config, MatrixProduct(DTYPES[precision])
    size = build_fake_model(config, ModelConfig(), LoraConfig(), torch.float32).size
    for task in tasks:
        num_rows = NUM_ROWS[name][TASKS.index(task)] * SCALE
        examples = examples_like(task, config.vocab_size, num_rows)
        trainer = BaselineTrainer(plain, examples.layout, in_bf16=precision == "bf16")
        rows = examples.take(range(num_rows))
        longest_cot = examples.longest_cot("token")
        for stage_name, share in REMOVED.items():
            num_removed = round(share * longest_cot)
            batch = _batch(examples, num_removed)
            losses = trainer.step(rows, num_removed), engine.train_step(batch, 0.0).loss
            assert abs(losses[0] - losses[1]) < TOLERANCE[precision], (name, task, stage_name, losses)
            timing = take_turns(
                {
                    "baseline": lambda t=trainer, r=rows, n=num_removed: t.step(r, n),
                    "limit": product,
                    "ours": lambda t=task, n=num_removed, e=examples: engine.train_step(_batch(e, n), 0.0),
                },
                repeats,
                warm_up=0,  # the comparison of losses was one
            )
            lengths = [len(row.question_ids) + 2 + len(row.cot_ids[num_removed:]) + len(row.answer_ids) for row in rows]
            yield {
                "model": name,
                "rows": f"{task}, {stage_name}",
                **_figures(timing, size, batch, lengths, product.flops, bandwidth, DTYPES[precision].itemsize),
                **(_memory(trainer, engine, rows, num_removed, batch) if not share else {}),  # the most, at full CoT
            }


def _figures(
    timing: dict[str, Timing],
    size: ModelSize,
    batch: StepBatch,
    lengths: list[int],
    product_flops: float,
    bandwidth: float,
    itemsize: int,
) -> dict[str, Any]:
    num_rows, longest, limit = len(lengths), max(lengths), product_flops / timing["limit"].median
    padded = num_rows * longest
    baseline = _work(size, padded, padded, num_rows * longest**2, itemsize)
    ours = _work(size, batch.num_tokens, batch.num_label_tokens, batch.sum_of_squares, itemsize)
    allowed = baseline.seconds(limit, bandwidth) / ours.seconds(limit, bandwidth)
    ratio = timing["ours"].speed_up_over(timing["baseline"])
    return {
        "examples/s": num_rows / timing["ours"].median,
        "ratio": str(ratio),
        "allowed": allowed,
        "of allowed": ratio.median / allowed,
        "MFU": ours.flops / timing["ours"].median / limit,
        "limit GFLOP/s": limit / 1e9,
    }


def _work(size: ModelSize, num_tokens: int, num_logits: int, sum_of_squares: int, itemsize: int) -> Work:
    """Count a step: the FLOPs of ``training_flops``, and the bytes that no order of work avoids.

    AdamW reads weight, gradient and both moments in fp32, and writes all but the gradient, which the backward pass
    wrote and clipping read. Logits are written and read forward, and again backward. Of activations, 17 times the
    hidden size is written for each token and layer in the forward pass, and read in the backward pass
    (arXiv:2205.05198, section 4.1, without attention's square: 34 bytes in fp16 are 17 numbers).
    """
    flops = training_flops(size, num_tokens, num_logits, sum_of_squares, gradient_checkpointing=False)
    optimizer = 9 * size.num_trained
    logits = 4 * num_logits * size.vocabulary_size
    activations = 2 * 17 * size.hidden_size * size.num_layers * num_tokens
    return Work(flops, 4 * optimizer + itemsize * (logits + activations))


def _memory(
    trainer: BaselineTrainer, engine: Engine, rows: list[Any], num_removed: int, batch: StepBatch
) -> dict[str, Any]:
    peaks = {
        "baseline MiB": _peak(trainer.model, lambda: trainer.step(rows, num_removed)),
        "ours MiB": _peak(engine.model, lambda: engine.train_step(batch, 0.0)),
    }
    return {name: round(peak / 2**20, 1) for name, peak in peaks.items()}


def _peak(model: PreTrainedModel, work: Any) -> int:
    """Return the most bytes of tensors alive in a step, beyond weights and moments: gradients, activations, logits."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    peak = 0

    def record(live: dict[str, int]) -> None:
        nonlocal peak
        peak = max(peak, sum(live.values()))

    with LiveBytes(lambda _: "", [*model.parameters(), *model.buffers()], record):
        work()
    return peak


def _engine(name: str, precision: Precision) -> Engine:
    def make() -> PreTrainedModel:
        model = random_model(SHAPES[name], PACKED_SDPA)
        fuse_gelu(model)  # as every model that training builds
        return model

    return build_engine(make, 512, EngineConfig(precision=precision), OptimConfig(), seed=0, partitions_on_load=False)


def _batch(examples: Any, num_removed: int) -> StepBatch:
    """Return the batch as training prepares it; its rows come in the same order every time."""
    longest = examples.longest_cot("token")
    stage = Stage(0, num_removed, num_removed >= longest, 0, smooths=False, resets_optimizer=False)
    dataset = StepDataset(
        examples,
        stage,
        RemovalRule(RemovalConfig(smoothing_lambda=float("inf"), keep_positions=False), examples.longest_cot("token")),
        seed=0,
        epoch=0,
        global_batch_size=len(examples),
        micro_batch_tokens=MICRO_BATCH_TOKENS * SCALE,
        rank=0,
        num_ranks=1,
    )
    return replace(dataset[0], step=0)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=tuple(SHAPES), default=tuple(SHAPES))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=tuple(DTYPES), default="fp32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for section in run(arguments.repeats, arguments.models, arguments.tasks, arguments.precision):
        section.print(Console())


if __name__ == "__main__":
    main()
