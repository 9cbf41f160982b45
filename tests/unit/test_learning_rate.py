"""The learning rate, against values worked out by hand."""

import pytest

from pipeline.config import OptimConfig
from pipeline.learning_rate import learning_rate

LR = 0.8


def rate(step: int, num_steps: int | None = None, reset_step: int | None = None, **settings: object) -> float:
    return learning_rate(OptimConfig(lr=LR, **settings), step, num_steps, reset_step)  # type: ignore[arg-type]


@pytest.mark.parametrize("step", [0, 1, 10**6])
def test_constant_needs_no_length(step: int) -> None:
    assert rate(step) == LR


@pytest.mark.parametrize(("step", "expected"), [(0, 0.2), (1, 0.4), (2, 0.6), (3, 0.8), (4, 0.8), (99, 0.8)])
def test_warm_up_rises_in_equal_steps_to_the_peak(step: int, expected: float) -> None:
    # The first step trains as well: a quarter of the peak, not zero of it.
    assert rate(step, warmup_steps=4) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("lr_schedule", "step", "expected"),
    [
        # 2 warm-up steps, then 8 steps down: progress (step - 2) / 8.
        ("linear", 0, 0.4),
        ("linear", 1, 0.8),
        ("linear", 2, 0.8),
        ("linear", 4, 0.6),
        ("linear", 6, 0.4),
        ("linear", 9, 0.1),
        ("linear", 10, 0.0),
        ("cosine", 1, 0.8),
        ("cosine", 2, 0.8),
        ("cosine", 4, 0.8 * 0.8535534),  # (1 + cos 45 degrees) / 2
        ("cosine", 6, 0.4),
        ("cosine", 8, 0.8 * 0.1464466),
        ("cosine", 10, 0.0),
    ],
)
def test_decay_ends_at_zero_at_the_end_of_the_run(lr_schedule: str, step: int, expected: float) -> None:
    assert rate(step, num_steps=10, warmup_steps=2, lr_schedule=lr_schedule) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("step", "reset_step", "expected"),
    [
        (0, None, 0.8),  # no reset yet: the run's beginning has a warm-up of its own
        (99, None, 0.8),
        (100, 100, 0.2),
        (101, 100, 0.4),
        (103, 100, 0.8),
        (104, 100, 0.8),
        (104, 104, 0.2),  # the next reset begins again
    ],
)
def test_each_reset_is_followed_by_a_warm_up(step: int, reset_step: int | None, expected: float) -> None:
    assert rate(step, reset_step=reset_step, reset_warmup_steps=4) == pytest.approx(expected)


def test_reset_inside_the_first_warm_up_takes_both() -> None:
    # Step 1 of 4 to the peak (2/4), and step 0 of 2 after the reset (1/2).
    assert rate(1, reset_step=1, warmup_steps=4, reset_warmup_steps=2) == pytest.approx(0.8 / 4)


def test_reset_warm_up_scales_what_the_decay_says() -> None:
    # Half way down, first of 4 steps after the reset.
    assert rate(5, num_steps=10, reset_step=5, lr_schedule="linear", reset_warmup_steps=4) == pytest.approx(0.8 / 8)


@pytest.mark.parametrize(
    ("final_decay", "step", "expected"),
    [
        # The last stage is steps 100 to 139; a share of 0.25 is its last ten.
        (0.25, 99, 0.8),
        (0.25, 129, 0.8),
        (0.25, 130, 0.8),
        (0.25, 135, 0.4),
        (0.25, 139, 0.08),
        (1.0, 100, 0.8),
        (1.0, 120, 0.4),
        (1.0, 139, 0.02),
        (0.0, 139, 0.8),
    ],
)
def test_a_share_of_the_last_stage_can_bring_it_to_zero(final_decay: float, step: int, expected: float) -> None:
    learning = learning_rate(OptimConfig(lr=LR, final_decay=final_decay), step, None, None, range(100, 140))
    assert learning == pytest.approx(expected)


def test_the_final_decay_waits_until_the_last_stage_is_known() -> None:
    assert learning_rate(OptimConfig(lr=LR, final_decay=1.0), 135, 140, None, None) == LR


def test_no_reset_warm_up_by_default() -> None:
    assert rate(7, reset_step=7) == LR
