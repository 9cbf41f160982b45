"""Global batches, their layout in ranks and micro-batches, and padding."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.batching import (
    IGNORE_INDEX,
    MicroBatch,
    RemovalRule,
    StepBatch,
    StepDataset,
    build_dataloader,
    build_rows,
    collate,
    epoch_offsets,
    epoch_order,
)
from pipeline.config import RemovalConfig
from pipeline.examples import ExampleSet
from pipeline.layout import SequenceLayout, assemble_row
from pipeline.micro_batches import plan_micro_batches, ranks_at_work, steps_per_epoch
from pipeline.removal import CoTExample
from pipeline.schedule import Stage
from pipeline.token_table import SCHEMA

END, PAD = 1, 0
LAYOUT = SequenceLayout((2,), (3,), END, PAD)
STAGE = Stage(1, num_removed=2, removes_all=False, first_step=0, smooths=True, resets_optimizer=True)


def rule_with(longest_cot: int = 12, smoothing_lambda: float = 0.5, **removal: Any) -> RemovalRule:
    """Return a rule that removes tokens from the left, but for what is named."""
    return RemovalRule(RemovalConfig(smoothing_lambda=smoothing_lambda, **removal), longest_cot)


RULE = rule_with()


def build_examples(cot_lengths: Sequence[int]) -> ExampleSet:
    """Return rows whose question is 100 + their number, so that each can be told from the others."""
    num_rows = len(cot_lengths)
    columns = {
        "question": [str(row) for row in range(num_rows)],
        "answer": ["7"] * num_rows,
        "question_ids": [[100 + row] for row in range(num_rows)],
        "cot_ids": [list(range(10, 10 + length)) for length in cot_lengths],
        "answer_ids": [[7, END]] * num_rows,
        "cot_step_lengths": [[length] if length else [] for length in cot_lengths],
    }
    return ExampleSet(pa.table(columns, SCHEMA), LAYOUT)


EXAMPLES = build_examples([12, 0, 3, 5, 9, 1, 7, 7, 2, 11])


def load(
    steps: range,
    rank: int = 0,
    num_ranks: int = 1,
    *,
    stage: Stage = STAGE,
    rule: RemovalRule = RULE,
    seed: int = 0,
    epoch: int = 0,
    global_batch_size: int = 4,
    micro_batch_tokens: int = 1000,
) -> list[StepBatch]:
    dataset = StepDataset(
        EXAMPLES,
        stage,
        rule,
        seed=seed,
        epoch=epoch,
        global_batch_size=global_batch_size,
        micro_batch_tokens=micro_batch_tokens,
        rank=rank,
        num_ranks=num_ranks,
    )
    return list(build_dataloader(dataset, steps))


Row = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def rows_in(micro_batches: Sequence[MicroBatch]) -> list[Row]:
    """Return (ids, positions, labels) of each row without its padding; empty micro-batches hold none."""
    rows = []
    for batch in micro_batches:
        for ids, mask, positions, labels in zip(
            batch.input_ids, batch.attention_mask, batch.position_ids, batch.labels, strict=True
        ):
            if (labels != IGNORE_INDEX).any():
                length = int(mask.sum())
                rows.append(tuple(tuple(part[:length].tolist()) for part in (ids, positions, labels)))
    return rows


def row_number(row: Row) -> int:
    return row[0][0] - 100


# Global batches


@pytest.mark.parametrize(("num_rows", "batch_size", "steps"), [(8, 4, 2), (9, 4, 3), (3, 4, 1), (12, 1, 12)])
def test_steps_per_epoch_count_the_smaller_last_batch(num_rows: int, batch_size: int, steps: int) -> None:
    assert steps_per_epoch(num_rows, batch_size) == steps


def test_an_epoch_visits_each_row_once() -> None:
    batches = load(range(3))
    assert [len(batch.row_numbers) for batch in batches] == [4, 4, 2]
    visited = [row_number(row) for batch in batches for row in rows_in(batch.micro_batches)]
    assert sorted(visited) == list(range(10))


@pytest.mark.parametrize("num_ranks", [1, 2, 8])
@pytest.mark.parametrize("micro_batch_tokens", [1, 20, 45, 1000])
def test_global_batch_is_the_same_however_it_is_shared_out(num_ranks: int, micro_batch_tokens: int) -> None:
    expected = load(range(3))
    shares = [load(range(3), rank, num_ranks, micro_batch_tokens=micro_batch_tokens) for rank in range(num_ranks)]
    for step in range(3):
        rows = [row for share in shares for row in rows_in(share[step].micro_batches)]
        assert Counter(rows) == Counter(rows_in(expected[step].micro_batches))
        assert len({len(share[step].micro_batches) for share in shares}) == 1
        for share in shares:  # what the loss is divided by is the whole's, on every rank
            batch = share[step]
            assert len(batch.row_numbers) == len(rows)
            assert batch.num_tokens == sum(len(ids) for ids, _, _ in rows)
            assert batch.num_label_tokens == sum(label != IGNORE_INDEX for _, _, labels in rows for label in labels)


def test_counts_by_hand() -> None:
    # All CoT gone: question 1, two separators, answer and end; the last three of the five carry labels.
    stage = Stage(3, 12, removes_all=True, first_step=0, smooths=True, resets_optimizer=True)
    (batch,) = load(range(2, 3), stage=stage)
    assert (len(batch.row_numbers), batch.num_tokens, batch.num_label_tokens) == (2, 10, 6)


def test_a_loader_that_begins_in_mid_epoch_goes_on_where_it_was() -> None:
    whole = load(range(3))
    for step in range(3):
        (alone,) = load(range(step, step + 1))
        assert rows_in(alone.micro_batches) == rows_in(whole[step].micro_batches)


def test_steps_of_a_later_epoch_count_from_the_runs_beginning() -> None:
    second = load(range(3, 6), epoch=1)
    assert sorted(row_number(row) for batch in second for row in rows_in(batch.micro_batches)) == list(range(10))


def test_a_new_stage_goes_on_with_the_same_order() -> None:
    last = Stage(3, 12, removes_all=True, first_step=1, smooths=True, resets_optimizer=True)
    before, after = load(range(3)), load(range(1, 3), stage=last)
    numbers = [{row_number(row) for row in rows_in(batch.micro_batches)} for batch in before[1:]]
    assert [{row_number(row) for row in rows_in(batch.micro_batches)} for batch in after] == numbers


def test_order_is_a_function_of_seed_and_epoch() -> None:
    first = epoch_order(50, seed=3, epoch=2)
    assert sorted(first) == list(range(50))
    assert (epoch_order(50, seed=3, epoch=2) == first).all()
    for seed, epoch in ((3, 1), (4, 2), (2, 3)):  # (2, 3): not a function of their sum
        assert (epoch_order(50, seed, epoch) != first).any()


# Smoothing


def test_offsets_are_a_function_of_seed_epoch_and_row() -> None:
    first = epoch_offsets(200, seed=3, epoch=2, stage=STAGE, rule=RULE)
    assert (epoch_offsets(200, 3, 2, STAGE, RULE) == first).all()
    for seed, epoch in ((3, 1), (4, 2), (2, 3)):
        assert (epoch_offsets(200, seed, epoch, STAGE, RULE) != first).any()
    assert not epoch_offsets(200, 3, 2, STAGE, rule_with(smoothing_lambda=float("inf"))).any()


@pytest.mark.parametrize("global_batch_size", [1, 3, 10])
def test_what_a_row_loses_does_not_depend_on_the_batch_it_is_in(global_batch_size: int) -> None:
    offsets = epoch_offsets(10, seed=0, epoch=0, stage=STAGE, rule=RULE)
    assert offsets.any()
    cot_lengths = EXAMPLES.lengths("cot_ids")
    steps = range(steps_per_epoch(10, global_batch_size))
    for batch in load(steps, global_batch_size=global_batch_size):
        for row in rows_in(batch.micro_batches):
            # question, two separators, answer and end, and what is left of the CoT: r = min(s + o, n).
            left = len(row[0]) - 5
            assert left == max(cot_lengths[row_number(row)] - 2 - offsets[row_number(row)], 0)


def test_no_offset_where_the_stage_does_not_smooth() -> None:
    stage = Stage(0, 0, removes_all=False, first_step=0, smooths=False, resets_optimizer=False)
    for batch in load(range(3), stage=stage):
        for row in rows_in(batch.micro_batches):
            assert len(row[0]) - 5 == EXAMPLES.lengths("cot_ids")[row_number(row)]


# Rows that lose fewer units

ADDS_FOUR = replace(STAGE, num_removed=6, num_added=4)


def test_a_share_of_the_rows_loses_fewer_units_and_the_others_draw_as_without_it() -> None:
    with_share = epoch_offsets(20_000, 3, 2, ADDS_FOUR, rule_with(earlier_share=0.4))
    without = epoch_offsets(20_000, 3, 2, ADDS_FOUR, RULE)
    fewer = with_share < 0
    assert set(with_share[fewer]) == {-1, -2, -3, -4}
    # Four standard errors of 20,000 draws.
    assert fewer.mean() == pytest.approx(0.4, abs=0.014)
    assert (with_share[~fewer] == without[~fewer]).all()
    assert (epoch_offsets(20_000, 3, 3, ADDS_FOUR, rule_with(earlier_share=0.4)) != with_share).any()


def test_a_stage_that_adds_nothing_has_no_rows_that_lose_fewer() -> None:
    assert (epoch_offsets(200, 3, 2, STAGE, rule_with(earlier_share=0.9)) >= 0).all()


@pytest.mark.parametrize(("earlier_from", "some_do"), [(6, True), (7, False)])
def test_rows_lose_fewer_only_from_the_stage_on_that_the_recipe_names(earlier_from: int, some_do: bool) -> None:
    rule = rule_with(earlier_share=0.9, earlier_from=earlier_from)
    assert (epoch_offsets(200, 3, 2, ADDS_FOUR, rule) < 0).any() == some_do


def test_rows_that_lose_fewer_train_on_what_they_keep() -> None:
    last = Stage(3, 12, removes_all=True, first_step=0, smooths=True, resets_optimizer=True, num_added=9)
    rule = rule_with(earlier_share=0.6)
    offsets = epoch_offsets(10, 0, 0, last, rule)
    assert (offsets < 0).any() and (offsets >= 0).any()
    for batch in load(range(3), stage=last, rule=rule):
        for row in rows_in(batch.micro_batches):
            offset, length = offsets[row_number(row)], EXAMPLES.lengths("cot_ids")[row_number(row)]
            assert len(row[0]) - 5 == (0 if offset >= 0 else max(length - 12 - offset, 0))


def build(stage: Stage, offset: int, cot_length: int = 8, **removal: Any) -> tuple[list[int], list[int]]:
    """Return ids and positions of a single row with this offset."""
    (row,) = build_rows(
        build_examples([cot_length]),
        np.array([0]),
        np.array([offset]),
        stage,
        rule_with(10, **removal),
    )
    return row.input_ids.tolist(), row.position_ids.tolist()


def stage_with(num_removed: int, removes_all: bool = False) -> Stage:
    return Stage(1, num_removed, removes_all, first_step=0, smooths=True, resets_optimizer=True)


@pytest.mark.parametrize(
    ("stage", "offset", "side", "cot_ids"),
    [
        (stage_with(2), 0, "left", [12, 13, 14, 15, 16, 17]),
        (stage_with(2), 3, "left", [15, 16, 17]),
        (stage_with(2), 3, "right", [10, 11, 12]),
        (stage_with(2), 6, "left", []),
        (stage_with(2), 99, "left", []),
        (stage_with(5, removes_all=True), 0, "left", []),  # everything goes at once, though 8 are left
        (stage_with(5, removes_all=True), -2, "left", [13, 14, 15, 16, 17]),
        (stage_with(5, removes_all=True), -2, "right", [10, 11, 12, 13, 14]),
    ],
)
def test_rows_lose_what_is_scheduled_and_the_offset(stage: Stage, offset: int, side: str, cot_ids: list[int]) -> None:
    ids, positions = build(stage, offset, side=side)
    assert ids == [100, 2, *cot_ids, 3, 7, END]
    assert positions == list(range(len(ids)))


@pytest.mark.parametrize(
    ("stage", "offset", "cot_length", "shift"),
    [
        (stage_with(2), 0, 8, 2),
        (stage_with(2), 3, 8, 5),  # the row's own offset counts
        (stage_with(9), 0, 8, 9),  # beyond this row's CoT, but not beyond the longest
        (stage_with(9), 4, 8, 10),  # g = min(s + o, C_max)
        (stage_with(9), 0, 0, 9),
        (stage_with(5, removes_all=True), 0, 8, 10),
    ],
)
def test_kept_positions(stage: Stage, offset: int, cot_length: int, shift: int) -> None:
    ids, positions = build(stage, offset, cot_length, keep_positions=True)
    assert positions == [0, *range(1 + shift, len(ids) + shift)]


@pytest.mark.parametrize(
    ("stage", "offset", "cot_ids", "shift"),
    [
        (stage_with(2), 0, [10, 11, 12, 13, 14, 15], 0),
        (stage_with(2), 3, [12, 13, 14], 2),
        (stage_with(5), -2, [10, 11, 12, 13, 14], 0),
        (stage_with(5), 0, [12, 13, 14], 2),
        (stage_with(7, removes_all=True), 0, [], 7),  # behind the longest CoT, without what goes from the right
    ],
)
def test_positions_are_kept_behind_what_went_from_the_right(
    stage: Stage, offset: int, cot_ids: list[int], shift: int
) -> None:
    ids, positions = build(stage, offset, keep_positions=True, right_first=3)
    assert ids == [100, 2, *cot_ids, 3, 7, END]
    assert positions == [0, *range(1 + shift, len(ids) + shift)]


# Micro-batches

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(LENGTHS, st.integers(1, 8), st.integers(1, 300))
def test_plan_holds_each_row_once_in_budget_and_the_same_number_a_rank(
    lengths: list[int], num_ranks: int, budget: int
) -> None:
    plan = plan_micro_batches(lengths, num_ranks, budget)
    assert len(plan) == num_ranks
    assert len({len(batches) for batches in plan}) == 1
    assert sorted(row for batches in plan for batch in batches for row in batch) == list(range(len(lengths)))
    for batches in plan:
        for batch in batches:
            # One row may be longer than the budget: it cannot be cut.
            assert len(batch) <= 1 or len(batch) * max(lengths[row] for row in batch) <= budget


def test_all_in_one_where_the_budget_allows() -> None:
    assert [sorted(batch) for batch in plan_micro_batches([5, 9, 7], 1, 27)[0]] == [[0, 1, 2]]


def test_rows_of_like_length_lie_together() -> None:
    # Two rows of 10 and four of 5 are 40 tokens: two micro-batches of 20 without any padding.
    assert plan_micro_batches([5, 10, 5, 5, 10, 5], 1, 20) == [[[1, 4], [0, 2, 3, 5]]]


def test_ranks_share_equal_rows_equally() -> None:
    assert [[len(batch) for batch in batches] for batches in plan_micro_batches([6] * 32, 4, 24)] == [[4, 4]] * 4


@pytest.mark.parametrize(("num_ranks", "at_work"), [(1, 1), (8, 8), (24, 16), (31, 16), (32, 32), (64, 32)])
def test_a_step_lasts_as_long_as_the_rank_with_most_rows(num_ranks: int, at_work: int) -> None:
    plan = plan_micro_batches([10] * 32, num_ranks, 1000)
    assert 32 / max(sum(map(len, batches)) for batches in plan) == ranks_at_work(32, num_ranks) == at_work


def test_a_row_longer_than_the_budget_stands_alone() -> None:
    plan = plan_micro_batches([50, 4, 4, 4], 1, 8)
    assert [0] in plan[0]


def test_fewer_rows_than_ranks_leave_some_with_an_empty_micro_batch() -> None:
    plan = plan_micro_batches([7, 9], 5, 100)
    assert [len(batches) for batches in plan] == [1] * 5
    assert sorted(len(batch) for batches in plan for batch in batches) == [0, 0, 0, 1, 1]
    # The last step of the epoch has two rows: on eight ranks six have nothing to do, and still take part.
    shares = [load(range(2, 3), rank, 8)[0] for rank in range(8)]
    assert sum(len(rows_in(share.micro_batches)) for share in shares) == 2
    assert all(len(share.micro_batches) == 1 for share in shares)


# Padding


def test_collate_pads_on_the_right() -> None:
    rows = [
        assemble_row(CoTExample((100,), (10, 11), (7, END)), LAYOUT, shift=5),
        assemble_row(CoTExample((101,), (), (7, END)), LAYOUT),
    ]
    batch = collate(rows, LAYOUT)
    ignored = IGNORE_INDEX
    assert batch.input_ids.tolist() == [[100, 2, 10, 11, 3, 7, END], [101, 2, 3, 7, END, PAD, PAD]]
    assert batch.attention_mask.tolist() == [[1] * 7, [1, 1, 1, 1, 1, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 6, 7, 8, 9, 10, 11], [0, 1, 2, 3, 4, 0, 0]]
    assert batch.labels.tolist() == [
        [ignored, ignored, 10, 11, 3, 7, END],
        [ignored, ignored, 3, 7, END, ignored, ignored],
    ]
    tensors = (batch.input_ids, batch.attention_mask, batch.position_ids, batch.labels)
    assert {tensor.dtype for tensor in tensors} == {torch.int64}


def test_a_label_that_is_the_padding_token_stays_a_label() -> None:
    # With one id for separator, end and padding, only the place of a token says what it is.
    layout = SequenceLayout((END,), (END,), END, pad_id=END)
    rows = [
        assemble_row(CoTExample((100,), (10, 11), (7, END)), layout),
        assemble_row(CoTExample((101,), (), (7, END)), layout),
    ]
    labels = collate(rows, layout).labels.tolist()
    assert labels[0][2:] == [10, 11, END, 7, END]
    assert labels[1] == [IGNORE_INDEX, IGNORE_INDEX, END, 7, END, IGNORE_INDEX, IGNORE_INDEX]


def test_the_empty_micro_batch() -> None:
    batch = collate([], LAYOUT)
    assert batch.input_ids.tolist() == [[PAD]]
    assert batch.attention_mask.tolist() == [[1]]  # a softmax over nothing would be NaN
    assert batch.labels.tolist() == [[IGNORE_INDEX]]
