"""What `tacit preview` shows. Rows, labels, positions and micro-batches come from the functions that training calls."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import set_verbosity_error

from pipeline.batching import (
    IGNORE_INDEX,
    MicroBatch,
    RemovalRule,
    StepDataset,
    build_rows,
    epoch_order,
)
from pipeline.config import Config, ModelConfig
from pipeline.errors import UserError
from pipeline.examples import ExampleSet
from pipeline.micro_batches import steps_per_epoch
from pipeline.modeling import build_tokenizer
from pipeline.preparation import load_data, positions_needed
from pipeline.preview.rows import ShownRow, cot_left, show_row, token_text
from pipeline.preview.stages import choose_stages, course_of
from pipeline.schedule import Stage

MOST_COUNTED = 10_000  # rows whose lengths are counted at a stage; where there are more, these stand for all


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens in many rows, or in one part of them."""

    mean: float
    longest: int


@dataclass(frozen=True, slots=True)
class StageCounts:
    """Lengths of the rows at a stage, offsets included."""

    question: Lengths
    cot: Lengths
    """What is left of it."""
    answer: Lengths
    row: Lengths
    """All of it: separators and end, too."""
    share_with_cot: float
    """Rows with CoT left."""
    share_earlier: float
    """Rows that draw an offset below 0 (``removal.earlier_share``)."""
    share_smoothed: float
    """Rows that draw an offset above 0."""


@dataclass(frozen=True, slots=True)
class MicroBatchShape:
    """What one rank puts through the model at once; without a row it is one padding token."""

    num_rows: int
    padded_length: int
    num_tokens: int
    """Without padding."""


@dataclass(frozen=True, slots=True)
class StagePreview:
    """Rows and batches of one stage."""

    stage: Stage
    epoch: int
    """The one in which the stage begins."""
    rows: list[ShownRow]
    counts: StageCounts
    ranks: list[list[MicroBatchShape]]
    """Micro-batches of each rank in the stage's first step."""


@dataclass(frozen=True, slots=True)
class Preview:
    """Everything that is shown."""

    num_rows: int
    steps_per_epoch: int
    num_counted: int
    """Rows that the counts are over."""
    num_removed: list[int]
    """Removed units of each stage of the run."""
    stages: list[StagePreview]

    def to_json(self) -> dict[str, Any]:
        """Return the preview as plain values."""
        return asdict(self)


def make_preview(config: Config, num_rows: int, num_ranks: int, stages: str | None = None) -> Preview:
    """Show some rows of a recipe's data at some of its stages: the first that the seed draws.

    Args:
        config: The recipe.
        num_rows: Rows to show; no more are shown than there are.
        num_ranks: Ranks that share a global batch.
        stages: Which stages, as ``choose_stages`` reads it.

    Raises:
        UserError: If tokenizer or rows cannot be read, training would refuse them, or the run has no such stage.
    """
    set_verbosity_error()
    tokenizer = _tokenizer(config.model)
    examples, validation = load_data(config, tokenizer)
    positions_needed(config, examples, validation)
    per_epoch = steps_per_epoch(len(examples), config.optim.global_batch_size)
    course = course_of(config.schedule, per_epoch, examples.longest_cot(config.removal.unit))
    chosen = choose_stages(course, stages)
    row_numbers = epoch_order(len(examples), config.run.seed, epoch=0)[:num_rows]
    text_of = cache(lambda token_id: token_text(tokenizer, token_id))
    rule = RemovalRule(config.removal, examples.longest_cot("token"))
    return Preview(
        len(examples),
        per_epoch,
        min(len(examples), MOST_COUNTED),
        list(dict.fromkeys(stage.num_removed for stage in course)),
        [_preview_stage(config, examples, stage, rule, row_numbers, num_ranks, text_of) for stage in chosen],
    )


def _tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    try:
        return build_tokenizer(config)
    except UserError as error:
        raise UserError(
            f"{str(error).rstrip('.')}. A preview needs no weights, but the tokenizer; --model.tokenizer names another "
            "place to take it from."
        ) from error


def _preview_stage(
    config: Config,
    examples: ExampleSet,
    stage: Stage,
    rule: RemovalRule,
    row_numbers: np.ndarray,
    num_ranks: int,
    text_of: Callable[[int], str],
) -> StagePreview:
    epoch = stage.first_step // steps_per_epoch(len(examples), config.optim.global_batch_size)
    shares = [
        StepDataset(
            examples,
            stage,
            rule,
            seed=config.run.seed,
            epoch=epoch,
            global_batch_size=config.optim.global_batch_size,
            micro_batch_tokens=config.engine.micro_batch_tokens,
            rank=rank,
            num_ranks=num_ranks,
        )
        for rank in range(num_ranks)
    ]
    order, offsets = shares[0].order, shares[0].offsets
    rows = build_rows(examples, row_numbers, offsets, stage, rule)
    shown = [
        show_row(
            int(number),
            int(offsets[number]) if stage.smooths else None,
            example,
            row,
            examples.layout,
            rule.removal.side,
            rule.removal.right_first,
            text_of,
        )
        for number, example, row in zip(row_numbers, examples.take(row_numbers), rows, strict=True)
    ]
    counts = _count(examples, order[:MOST_COUNTED], offsets, stage, rule)
    return StagePreview(
        stage, epoch, shown, counts, [list(map(_shape, share[stage.first_step].micro_batches)) for share in shares]
    )


def _count(
    examples: ExampleSet, row_numbers: np.ndarray, offsets: np.ndarray, stage: Stage, rule: RemovalRule
) -> StageCounts:
    rows = build_rows(examples, row_numbers, offsets, stage, rule)
    lengths = np.array([len(row.input_ids) for row in rows])
    question, answer = (examples.lengths(name)[row_numbers] for name in ("question_ids", "answer_ids"))
    cot = cot_left(lengths, question, answer, examples.layout)
    return StageCounts(
        _lengths(question),
        _lengths(cot),
        _lengths(answer - 1),  # without the end
        _lengths(lengths),
        share_with_cot=float(np.mean(cot > 0)),
        share_earlier=float(np.mean(offsets[row_numbers] < 0)),
        share_smoothed=float(np.mean(offsets[row_numbers] > 0)),
    )


def _lengths(numbers: np.ndarray) -> Lengths:
    return Lengths(float(numbers.mean()), int(numbers.max()))


def _shape(batch: MicroBatch) -> MicroBatchShape:
    is_row = (batch.labels != IGNORE_INDEX).any(dim=1)  # every row has a label, the empty micro-batch has none
    return MicroBatchShape(int(is_row.sum()), batch.input_ids.shape[1], int(batch.attention_mask[is_row].sum()))
