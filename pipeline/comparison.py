"""Saved models on one file of unseen questions: accuracy, tokens written, speed, side by side."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from pipeline.answer_spec import AnswerSpec, load_spec
from pipeline.config import DataConfig
from pipeline.evaluation import Contestant, Evaluation, check_answers, speeds_at_batch_one
from pipeline.examples import load_examples
from pipeline.frontier import Point
from pipeline.modeling import load_for_inference
from pipeline.ranks import from_rank_zero, rank

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One model's results."""

    model: str
    num_removed: int
    removes_all: bool
    evaluation: Evaluation
    examples_per_second: float
    """At batch size 1."""
    examples_per_second_batched: float
    """Of the evaluation itself, all ranks together; verified, it tells nothing of how fast the model answers."""

    def to_json(self) -> dict[str, Any]:
        """Return the figures without the rows."""
        return {
            "model": self.model,
            "num_removed": self.num_removed,
            "removes_all": self.removes_all,
            **self.evaluation.score.to_json(),
            "cot_tokens": self.evaluation.mean_cot_tokens,
            "examples_per_second": self.examples_per_second,
            "examples_per_second_batched": self.examples_per_second_batched,
        }


def load_contestant(
    folder: Path,
    data: DataConfig,
    *,
    num_removed: int | None = None,
    num_examples: int | None = None,
    trust_remote_code: bool = False,
) -> Contestant:
    """Load a saved model and the rows of ``data.validation``, written as the model knows them.

    Args:
        folder: A model folder that a run wrote.
        data: Names the rows, and how they are read.
        num_removed: Removed units at which the model is asked; None takes its own.
        num_examples: Rows used, from the first; None uses all.
        trust_remote_code: Run Python code that comes with the model.

    Raises:
        UserError: If the model or the data cannot be read.
    """
    spec = load_spec(folder).at(num_removed)
    model, tokenizer = load_for_inference(folder, trust_remote_code)
    examples = load_examples(data.validation, data.validation_split, data, spec.format, tokenizer).head(num_examples)
    check_answers(examples, tokenizer)
    return Contestant(model, tokenizer, examples, spec)


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
    """Evaluate each model on ``data.validation``, then time all of them in turns; all are in memory together.

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
    contestants = [
        load_contestant(
            folder, data, num_removed=num_removed, num_examples=num_examples, trust_remote_code=trust_remote_code
        )
        for folder in folders
    ]
    results = [
        _evaluate(folder, contestant, batch_size, verify)
        for folder, contestant in zip(folders, contestants, strict=True)
    ]
    speeds = _speeds(contestants, num_timed)
    return [
        _report(folder, contestant.spec, result, speed)
        for folder, contestant, result, speed in zip(folders, contestants, results, speeds, strict=True)
    ]


def compare_in_pairs(
    folders: Sequence[Path],
    data: DataConfig,
    *,
    num_examples: int | None,
    num_timed: int,
    batch_size: int,
    one_at_a_time: bool = False,
    verify: bool = True,
    trust_remote_code: bool = False,
) -> list[ModelReport]:
    """Do as ``compare_models``, with two models in memory at most: the first, and another that takes turns with it.

    The machine may be slower while one pair is timed than another. So what counts of a pair is how many times as fast
    as the first the other model was; speeds are these ratios times the first model's speed over all pairs.

    Args:
        folders: As in ``compare_models``; at least one.
        data: As in ``compare_models``.
        num_examples: As in ``compare_models``.
        num_timed: As in ``compare_models``, for each pair.
        batch_size: As in ``compare_models``.
        one_at_a_time: Keep one model in memory and time it alone: what else the machine does meanwhile shows.
        verify: As in ``compare_models``.
        trust_remote_code: As in ``compare_models``.

    Raises:
        UserError: If a model or the data cannot be read.
    """

    def load(folder: Path) -> Contestant:
        return load_contestant(folder, data, num_examples=num_examples, trust_remote_code=trust_remote_code)

    def compare(folder: Path, *first: Contestant) -> tuple[ModelReport, float]:
        """Return what is found of a model, whose memory is free again then, and the speed of the first beside it."""
        contestant = load(folder)
        result = _evaluate(folder, contestant, batch_size, verify)
        *beside, speed = _speeds([*first, contestant], num_timed)
        return _report(folder, contestant.spec, result, speed), beside[0] if beside else speed

    if one_at_a_time or len(folders) == 1:
        return [compare(folder)[0] for folder in folders]
    first = load(folders[0])
    result = _evaluate(folders[0], first, batch_size, verify)
    pairs = [compare(folder, first) for folder in folders[1:]]
    speed = 1 / mean(1 / beside for _, beside in pairs)
    return [
        _report(folders[0], first.spec, result, speed),
        *(replace(report, examples_per_second=report.examples_per_second / beside * speed) for report, beside in pairs),
    ]


def frontier_points(reports: Sequence[ModelReport]) -> tuple[Point, ...]:
    """Return models as points of a frontier; speeds are compared to the first one's."""
    return tuple(
        Point(
            **report.to_json(),
            latency_ms=1000 / report.examples_per_second,
            speedup=report.examples_per_second / reports[0].examples_per_second,
        )
        for report in reports
    )


def _evaluate(folder: Path, contestant: Contestant, batch_size: int, verify: bool) -> tuple[Evaluation, float]:
    """Return the rows as answered, and how many of them a second; the log says so before other models follow."""
    begin = time.perf_counter()
    result = contestant.evaluate(batch_size, verify=verify)
    seconds = time.perf_counter() - begin
    score = result.score
    logger.info("%s: %d of %d right, %.1f s", folder, score.num_correct, score.num_examples, seconds)
    return result, score.num_examples / seconds


def _speeds(contestants: Sequence[Contestant], num_timed: int) -> list[float]:
    """Return examples per second at batch size 1, timed on rank 0 while the others wait."""
    return from_rank_zero(speeds_at_batch_one(contestants, num_timed) if rank() == 0 else None)


def _report(folder: Path, spec: AnswerSpec, result: tuple[Evaluation, float], speed: float) -> ModelReport:
    evaluation, batched = result
    return ModelReport(str(folder), spec.num_removed, spec.removes_all, evaluation, speed, batched)
