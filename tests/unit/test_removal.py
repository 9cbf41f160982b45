"""Removal of CoT tokens and smoothing offsets (arXiv:2405.14838, section 3)."""

import math
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.removal import CoTExample, earlier_offsets, position_shift, remove_cot_tokens, smoothing_offsets

EXAMPLE = CoTExample((1, 2), (11, 12, 13, 14, 15, 16), (3, 4), cot_step_lengths=(1, 3, 2))
NO_COT = CoTExample((1, 2), (), (3, 4))


@pytest.mark.parametrize(
    ("side", "num_removed", "cot_ids", "cot_step_lengths"),
    [
        ("left", 0, (11, 12, 13, 14, 15, 16), (1, 3, 2)),
        ("left", 1, (12, 13, 14, 15, 16), (3, 2)),
        ("left", 2, (13, 14, 15, 16), (2, 2)),
        ("left", 5, (16,), (1,)),
        ("left", 6, (), ()),
        ("left", 7, (), ()),
        ("right", 0, (11, 12, 13, 14, 15, 16), (1, 3, 2)),
        ("right", 1, (11, 12, 13, 14, 15), (1, 3, 1)),
        ("right", 2, (11, 12, 13, 14), (1, 3)),
        ("right", 5, (11,), (1,)),
        ("right", 6, (), ()),
        ("right", 10**6, (), ()),
    ],
)
def test_tokens_go_from_one_end(
    side: str, num_removed: int, cot_ids: tuple[int, ...], cot_step_lengths: tuple[int, ...]
) -> None:
    left = remove_cot_tokens(EXAMPLE, num_removed, side)  # type: ignore[arg-type]
    assert left == CoTExample((1, 2), cot_ids, (3, 4), cot_step_lengths)


@pytest.mark.parametrize(
    ("side", "num_removed", "cot_ids", "cot_step_lengths"),
    [
        ("left", 0, (11, 12, 13, 14, 15, 16), (1, 3, 2)),
        ("left", 1, (12, 13, 14, 15, 16), (3, 2)),
        ("left", 2, (15, 16), (2,)),
        ("left", 3, (), ()),
        ("left", 4, (), ()),
        ("right", 0, (11, 12, 13, 14, 15, 16), (1, 3, 2)),
        ("right", 1, (11, 12, 13, 14), (1, 3)),
        ("right", 2, (11,), (1,)),
        ("right", 3, (), ()),
        ("right", 4, (), ()),
    ],
)
def test_steps_go_whole(
    side: str, num_removed: int, cot_ids: tuple[int, ...], cot_step_lengths: tuple[int, ...]
) -> None:
    left = remove_cot_tokens(EXAMPLE, num_removed, side, unit="step")  # type: ignore[arg-type]
    assert left == CoTExample((1, 2), cot_ids, (3, 4), cot_step_lengths)


@pytest.mark.parametrize(
    ("num_removed", "cot_ids", "cot_step_lengths"),
    [
        (0, (11, 12, 13, 14, 15, 16), (1, 3, 2)),
        (1, (11, 12, 13, 14, 15), (1, 3, 1)),
        (2, (11, 12, 13, 14), (1, 3)),
        (3, (12, 13, 14), (3,)),
        (5, (14,), (1,)),
        (6, (), ()),
        (7, (), ()),
    ],
)
def test_some_tokens_go_from_the_right_first(
    num_removed: int, cot_ids: tuple[int, ...], cot_step_lengths: tuple[int, ...]
) -> None:
    left = remove_cot_tokens(EXAMPLE, num_removed, "left", right_first=2)
    assert left == CoTExample((1, 2), cot_ids, (3, 4), cot_step_lengths)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("unit", ["token", "step"])
def test_nothing_to_remove_is_no_mistake(side: str, unit: str) -> None:
    assert remove_cot_tokens(NO_COT, 5, side, unit) == NO_COT  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", ["token", "step"])
def test_negative_number_is_refused(unit: str) -> None:
    with pytest.raises(ValueError, match=r"num_removed \(-1\) must be at least 0"):
        remove_cot_tokens(EXAMPLE, -1, "left", unit)  # type: ignore[arg-type]


def _example(step_lengths: list[int]) -> CoTExample:
    return CoTExample((1,), tuple(range(sum(step_lengths))), (2,), tuple(step_lengths))


EXAMPLES = st.lists(st.integers(1, 6), max_size=6).map(_example)
SIDES = st.sampled_from(["left", "right"])


@given(EXAMPLES, st.integers(0, 40), SIDES)
def test_what_is_left_is_one_end_of_the_cot(example: CoTExample, num_removed: int, side: str) -> None:
    left = remove_cot_tokens(example, num_removed, side)  # type: ignore[arg-type]
    cot = example.cot_ids
    num_left = max(len(cot) - num_removed, 0)
    assert left.cot_ids == (cot[len(cot) - num_left :] if side == "left" else cot[:num_left])
    assert sum(left.cot_step_lengths) == num_left
    assert (left.question_ids, left.answer_ids) == (example.question_ids, example.answer_ids)


@given(EXAMPLES, st.integers(0, 20), st.integers(0, 20), SIDES, st.sampled_from(["token", "step"]))
def test_removing_twice_is_removing_the_sum(example: CoTExample, a: int, b: int, side: str, unit: str) -> None:
    twice = remove_cot_tokens(remove_cot_tokens(example, a, side, unit), b, side, unit)  # type: ignore[arg-type]
    assert twice == remove_cot_tokens(example, a + b, side, unit)  # type: ignore[arg-type]


@given(EXAMPLES, st.integers(0, 8), SIDES)
def test_steps_are_the_sum_of_their_tokens(example: CoTExample, num_steps: int, side: str) -> None:
    lengths = example.cot_step_lengths if side == "left" else example.cot_step_lengths[::-1]
    num_tokens = [0, *accumulate(lengths)][min(num_steps, len(lengths))]
    by_step = remove_cot_tokens(example, num_steps, side, "step")  # type: ignore[arg-type]
    assert by_step == remove_cot_tokens(example, num_tokens, side, "token")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    # The last bin holds all that is larger. Bound: 99.9 % point of chi-square with (bins - 1) degrees of freedom, so
    # a right generator fails for one seed in a thousand, and the seed is fixed.
    ("smoothing_lambda", "num_bins", "bound"),
    [(4.0, 3, 13.8), (1.0, 11, 29.6), (0.25, 31, 59.7)],
)
def test_offsets_have_the_papers_distribution(smoothing_lambda: float, num_bins: int, bound: float) -> None:
    num_draws = 200_000
    offsets = smoothing_offsets(num_draws, smoothing_lambda, np.random.default_rng(5))
    assert offsets.shape == (num_draws,)
    assert np.issubdtype(offsets.dtype, np.integer)
    probabilities = [
        (1 - math.exp(-smoothing_lambda)) * math.exp(-smoothing_lambda * offset) for offset in range(num_bins - 1)
    ]
    probabilities.append(1 - sum(probabilities))
    expected = num_draws * np.array(probabilities)
    observed = np.bincount(np.minimum(offsets, num_bins - 1), minlength=num_bins)
    assert ((observed - expected) ** 2 / expected).sum() < bound


def test_the_papers_lambda_mostly_draws_zero() -> None:
    # P(0) = 1 - e^-4 = 0.9817; the tolerance is four standard errors of 200,000 draws.
    zeros = (smoothing_offsets(200_000, 4.0, np.random.default_rng(1)) == 0).mean()
    assert zeros == pytest.approx(0.9817, abs=0.0012)


def test_infinite_lambda_turns_smoothing_off() -> None:
    offsets = smoothing_offsets(1000, math.inf, np.random.default_rng(0))
    assert offsets.shape == (1000,)
    assert not offsets.any()


def test_offsets_come_from_the_generator_alone() -> None:
    first = smoothing_offsets(100, 0.5, np.random.default_rng(3))
    np.random.seed(0)  # the global generator must not matter
    assert (smoothing_offsets(100, 0.5, np.random.default_rng(3)) == first).all()
    assert (smoothing_offsets(100, 0.5, np.random.default_rng(4)) != first).any()


@pytest.mark.parametrize(
    ("num_removed", "removes_all", "shift"),
    [(0, False, 0), (3, False, 3), (10, False, 10), (12, False, 10), (4, True, 10), (0, True, 10), (12, True, 10)],
)
def test_position_shift_stops_at_the_longest_cot(num_removed: int, removes_all: bool, shift: int) -> None:
    assert position_shift(num_removed, longest_cot=10, removes_all=removes_all) == shift


@pytest.mark.parametrize(
    ("num_removed", "removes_all", "shift"), [(0, False, 0), (4, False, 0), (5, False, 1), (12, False, 6), (5, True, 6)]
)
def test_positions_do_not_shift_by_what_went_from_the_right(num_removed: int, removes_all: bool, shift: int) -> None:
    assert position_shift(num_removed, longest_cot=10, removes_all=removes_all, right_first=4) == shift
    assert position_shift(num_removed, longest_cot=10, removes_all=removes_all, right_first=11) == 0


@pytest.mark.parametrize(("share", "num_added"), [(0.5, 1), (0.3, 9)])
def test_fewer_units_are_lost_by_a_share_of_the_rows_all_numbers_as_often(share: float, num_added: int) -> None:
    num_draws = 200_000
    offsets = earlier_offsets(num_draws, share, num_added, np.random.default_rng(5))
    assert np.issubdtype(offsets.dtype, np.integer)
    probabilities = [1 - share, *num_added * [share / num_added]]
    observed = np.bincount(-offsets, minlength=num_added + 1)
    assert len(observed) == num_added + 1
    # Each within four standard errors.
    for count, probability in zip(observed, probabilities, strict=True):
        assert count / num_draws == pytest.approx(probability, abs=4 * math.sqrt(0.25 / num_draws))


@pytest.mark.parametrize(("share", "num_added"), [(0.0, 9), (0.9, 0)])
def test_no_row_loses_fewer_without_a_share_or_where_nothing_is_added(share: float, num_added: int) -> None:
    assert not earlier_offsets(1000, share, num_added, np.random.default_rng(5)).any()
