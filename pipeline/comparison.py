"""Saved models on one file of unseen questions: accuracy, tokens written, speed, side by side."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.answer_spec import load_spec
from pipeline.config import DataConfig
from pipeline.evaluation import Contestant, Evaluation, evaluate, speeds_at_batch_one
from pipeline.examples import load_examples
from pipeline.modeling import load_for_inference
from pipeline.ranks import barrier, rank, world_size
from pipeline.scoring import wilson_interval


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One model's results."""

    model: str
    num_removed: int
    evaluation: Evaluation
    examples_per_second: float
    """At batch size 1."""
    examples_per_second_batched: float
    """Of the evaluation itself, all ranks together; verified, it tells nothing of how fast the model answers."""

    @property
    def confidence_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return wilson_interval(self.evaluation.num_correct, len(self.evaluation.samples))

    def to_json(self) -> dict[str, object]:
        """Return the figures without the rows."""
        evaluation = self.evaluation
        return {
            "model": self.model,
            "num_removed": self.num_removed,
            "accuracy": evaluation.accuracy,
            "num_correct": evaluation.num_correct,
            "num_examples": len(evaluation.samples),
            "confidence_interval": self.confidence_interval,
            "cot_tokens": evaluation.mean_cot_tokens,
            "examples_per_second": self.examples_per_second,
            "examples_per_second_batched": self.examples_per_second_batched,
        }


def compare_models(
    folders: Sequence[Path],
    data: DataConfig,
    *,
    num_removed: int | None,
    num_examples: int | None,
    num_timed: int,
    batch_size: int,
    verify: bool = True,
    trust_remote_code: bool = False,
) -> list[ModelReport]:
    """Evaluate each model on ``data.validation``, then time all of them in turns.

    Args:
        folders: Model folders that a run wrote.
        data: Names the rows, and how they are read.
        num_removed: Removed units at which the models are asked; None takes each model's own.
        num_examples: Rows used, from the first; None uses all.
        num_timed: Rows for the speed at batch size 1.
        batch_size: Rows decoded together for accuracy.
        verify: Whether decoding for accuracy tries the reference answers first.
        trust_remote_code: Run Python code that comes with the models.

    Raises:
        UserError: If a model or the data cannot be read.
    """
    specs = [load_spec(folder).at(num_removed) for folder in folders]
    contestants, results = [], []
    for folder, spec in zip(folders, specs, strict=True):
        model, tokenizer = load_for_inference(folder, trust_remote_code)
        examples = load_examples(data.validation, data.validation_split, data, spec.format, tokenizer).head(
            num_examples
        )
        begin = time.perf_counter()
        result = evaluate(model, tokenizer, examples, spec, batch_size, verify=verify)
        results.append((result, len(result.samples) / (time.perf_counter() - begin)))
        contestants.append(Contestant(model, examples, spec))
    speeds = speeds_at_batch_one(contestants, num_timed) if rank() == 0 else [0.0] * len(folders)
    if world_size() > 1:
        barrier()
    return [
        ModelReport(str(folder), spec.num_removed, result, speed, batched)
        for folder, spec, (result, batched), speed in zip(folders, specs, results, speeds, strict=True)
    ]
