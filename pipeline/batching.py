"""Which rows an optimizer step trains on, and how they reach the ranks.

A global batch is a list of row numbers fixed by (seed, epoch, step) alone. What is left of its rows after removal is
then laid out in micro-batches: rows of like length together, at most ``micro_batch_tokens`` padded tokens each, the
same number of micro-batches on every rank. The layout never changes the loss, only how much is computed at once.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.config import RemovalConfig
from pipeline.examples import ExampleSet
from pipeline.layout import Row, SequenceLayout, assemble_row
from pipeline.micro_batches import plan_micro_batches, steps_per_epoch
from pipeline.removal import (
    earlier_offsets,
    earlier_share_at,
    position_shift,
    remove_cot_tokens,
    smoothing_offsets,
)
from pipeline.schedule import Stage

IGNORE_INDEX = -100
ORDER_STREAM, SMOOTHING_STREAM, EARLIER_STREAM = 0, 1, 2  # independent random streams of one seed


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Right-padded rows; all tensors are (batch, seq). Empty micro-batches have one padding token and no label."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    """The token itself where it carries loss, ``IGNORE_INDEX`` elsewhere; not shifted."""


@dataclass(frozen=True, slots=True)
class StepBatch:
    """One rank's share of one optimizer step."""

    step: int
    """The optimizer step, from 0."""
    micro_batches: list[MicroBatch]
    num_label_tokens: int
    """Label tokens of the global batch: what the loss is divided by."""
    row_numbers: tuple[int, ...]
    """Rows of the global batch: their places among the training rows in use, from 0."""
    num_tokens: int
    """Unpadded tokens of the global batch."""
    sum_of_squares: int
    """Of its row lengths: what attention costs."""


@dataclass(frozen=True, slots=True)
class RemovalRule:
    """How training rows lose their CoT, apart from the stage."""

    removal: RemovalConfig
    longest_cot: int
    """Tokens in the longest training CoT: where kept positions end."""


def epoch_order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order in which an epoch visits the rows: a permutation, (num_rows,), of (seed, epoch) alone."""
    return np.random.default_rng([seed, epoch, ORDER_STREAM]).permutation(num_rows)


def epoch_offsets(num_rows: int, seed: int, epoch: int, stage: Stage, rule: RemovalRule) -> np.ndarray:
    """Return how many units each row loses beyond what its stage says, (num_rows,), below 0 where it loses fewer.

    A function of (seed, epoch, row), for all stages of an epoch that draw alike.
    """
    smoothing, earlier = (np.random.default_rng([seed, epoch, stream]) for stream in (SMOOTHING_STREAM, EARLIER_STREAM))
    removal = rule.removal
    share = earlier_share_at(stage.num_removed, stage.num_added, removal.earlier_share, removal.earlier_from)
    fewer = earlier_offsets(num_rows, share, stage.num_added, earlier)
    if not stage.smooths:
        return fewer
    return np.where(fewer < 0, fewer, smoothing_offsets(num_rows, removal.smoothing_lambda, smoothing))


def build_rows(
    examples: ExampleSet, indices: np.ndarray, offsets: np.ndarray, stage: Stage, rule: RemovalRule
) -> list[Row]:
    """Assemble the rows that the global batch ``indices`` trains on at a stage."""
    removal, rows = rule.removal, []
    for example, index in zip(examples.take(indices), indices, strict=True):
        num_removed, removes_all = stage.num_removed + int(offsets[index]), stage.removes_all and offsets[index] >= 0
        amount = len(example.cot_ids) if removes_all else num_removed
        left = remove_cot_tokens(example, amount, removal.side, removal.unit, removal.right_first)
        shift = 0
        if removal.keep_positions:
            shift = position_shift(num_removed, rule.longest_cot, removes_all, removal.right_first)
        rows.append(assemble_row(left, examples.layout, shift))
    return rows


def collate(rows: Sequence[Row], layout: SequenceLayout) -> MicroBatch:
    """Pad rows on the right into one micro-batch; no rows make the empty micro-batch."""
    num_rows, longest = max(len(rows), 1), max((len(row.input_ids) for row in rows), default=1)
    input_ids = np.full((num_rows, longest), layout.pad_id, dtype=np.int64)
    attention_mask = np.zeros((num_rows, longest), dtype=np.int64)
    position_ids = np.zeros((num_rows, longest), dtype=np.int64)
    labels = np.full((num_rows, longest), IGNORE_INDEX, dtype=np.int64)
    attention_mask[:, 0] = 1  # an empty row attends to itself: a softmax over nothing would be NaN
    for i, row in enumerate(rows):
        length = len(row.input_ids)
        input_ids[i, :length] = row.input_ids
        attention_mask[i, :length] = 1
        position_ids[i, :length] = row.position_ids
        labels[i, row.label_start : length] = row.input_ids[row.label_start :]
    return MicroBatch(*(torch.from_numpy(array) for array in (input_ids, attention_mask, position_ids, labels)))


class StepDataset(Dataset):
    """Maps an optimizer step to one rank's ``StepBatch``: a pure function, wherever the run began."""

    def __init__(
        self,
        examples: ExampleSet,
        stage: Stage,
        rule: RemovalRule,
        *,
        seed: int,
        epoch: int,
        global_batch_size: int,
        micro_batch_tokens: int,
        rank: int,
        num_ranks: int,
    ) -> None:
        self.examples, self.stage, self.rule = examples, stage, rule
        self.global_batch_size, self.micro_batch_tokens = global_batch_size, micro_batch_tokens
        self.rank, self.num_ranks = rank, num_ranks
        self.first_step = epoch * steps_per_epoch(len(examples), global_batch_size)
        self.order = epoch_order(len(examples), seed, epoch)
        self.offsets = epoch_offsets(len(examples), seed, epoch, stage, rule)

    def __getitem__(self, step: int) -> StepBatch:
        begin = (step - self.first_step) * self.global_batch_size
        indices = self.order[begin : begin + self.global_batch_size]
        rows = build_rows(self.examples, indices, self.offsets, self.stage, self.rule)
        lengths = [len(row.input_ids) for row in rows]
        plan = plan_micro_batches(lengths, self.num_ranks, self.micro_batch_tokens)[self.rank]
        return StepBatch(
            step,
            [collate([rows[i] for i in positions], self.examples.layout) for positions in plan],
            num_label_tokens=sum(len(row.input_ids) - row.label_start for row in rows),
            row_numbers=tuple(indices.tolist()),
            num_tokens=sum(lengths),
            sum_of_squares=sum(length**2 for length in lengths),
        )


def build_dataloader(dataset: StepDataset, steps: range) -> DataLoader:
    """Return a loader of this rank's ``StepBatch`` for each optimizer step in ``steps``, all of the dataset's epoch."""
    return DataLoader(dataset, sampler=steps, batch_size=None)


def prepared_ahead(batches: Iterable[StepBatch]) -> Iterator[StepBatch]:
    """Yield batches, each prepared in a thread while the one before it is trained on."""
    iterator = iter(batches)
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(next, iterator, None)
        while (batch := ahead.result()) is not None:
            ahead = thread.submit(next, iterator, None)
            yield batch
