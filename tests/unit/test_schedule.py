"""Fixed and adaptive schedules, against tables worked out by hand (arXiv:2405.14838, section 3)."""

from dataclasses import replace
from typing import Any

import pytest

from pipeline.config import AdaptiveConfig, ScheduleConfig
from pipeline.errors import UserError
from pipeline.schedule import (
    AdaptiveState,
    Schedule,
    Stage,
    adaptive_after_step,
    adaptive_decision,
    adaptive_move,
    adaptive_start,
    fixed_schedule,
    last_num_removed,
    stage_numbers,
)


def fixed(steps_per_epoch: int, longest_cot: int, **settings: object) -> Schedule:
    return fixed_schedule(ScheduleConfig(**settings), steps_per_epoch, longest_cot)  # type: ignore[arg-type]


def first_steps(schedule: Schedule) -> list[tuple[int, int]]:
    """Return (removed units, first step) of each stage."""
    return [(stage.num_removed, stage.first_step) for stage in schedule.stages]


# The fixed schedule


def test_every_field_of_a_small_table() -> None:
    # 10 steps an epoch, 5 units an epoch: one unit every 2 steps. Half an epoch of hold, half an epoch at the end.
    schedule = fixed(10, 3, removed_per_epoch=5, hold_epochs=0.5, final_epochs=0.5)
    assert schedule.num_steps == 16
    assert schedule.stages == (
        # Held on the full CoT: nothing is removed, not even by smoothing.
        Stage(0, 0, removes_all=False, first_step=0, smooths=False, resets_optimizer=False),
        Stage(0, 0, removes_all=False, first_step=5, smooths=True, resets_optimizer=False),
        Stage(1, 1, removes_all=False, first_step=7, smooths=True, resets_optimizer=True, num_added=1),
        Stage(2, 2, removes_all=False, first_step=9, smooths=True, resets_optimizer=True, num_added=1),
        Stage(3, 3, removes_all=True, first_step=11, smooths=True, resets_optimizer=True, num_added=1),
    )


@pytest.mark.parametrize(
    ("steps_per_epoch", "removed_per_epoch", "pace"),
    [
        (10, 5, 2),
        (10, 4, 2),  # 2.5: Python rounds halves to the even number
        (11, 4, 3),  # 2.75
        (10, 3, 3),  # 3.33
        (10, 8, 1),  # 1.25
        (10, 100, 1),  # never less than one step
        (10, 0.5, 20),  # one unit in two epochs
        (1, 8, 1),
        (25250, 8, 3156),  # the paper's 4x4: 808,000 rows in batches of 32, 3156.25
    ],
)
def test_pace(steps_per_epoch: int, removed_per_epoch: float, pace: int) -> None:
    stages = fixed(steps_per_epoch, 4, removed_per_epoch=removed_per_epoch).stages
    assert [stage.first_step for stage in stages] == [0, pace, 2 * pace, 3 * pace, 4 * pace]


def test_removed_units_are_counted_through_epochs() -> None:
    # One unit every 3 steps of a 10-step epoch: the fourth falls on step 12, in the second epoch. A count that began
    # again with each epoch would put it on step 10.
    schedule = fixed(10, 5, removed_per_epoch=3)
    assert first_steps(schedule) == [(0, 0), (1, 3), (2, 6), (3, 9), (4, 12), (5, 15)]
    assert schedule.num_steps == 25


@pytest.mark.parametrize(
    ("settings", "table", "num_steps"),
    [
        # From an explicit-CoT checkpoint: the first stage removes already, and there was no change to reset for.
        ({"start_removed": 3}, [(3, 0), (4, 2), (5, 4)], 14),
        ({"start_removed": 3, "hold_epochs": 1}, [(3, 0), (3, 10), (4, 12), (5, 14)], 24),
        ({"start_removed": 5}, [(5, 0)], 10),
        ({"start_removed": 9}, [(5, 0)], 10),
        ({"remove_all_beyond": 2}, [(0, 0), (1, 2), (2, 4)], 14),
        ({"remove_all_beyond": 5}, [(0, 0), (1, 2), (2, 4), (3, 6), (4, 8), (5, 10)], 20),
        ({"remove_all_beyond": 39}, [(0, 0), (1, 2), (2, 4), (3, 6), (4, 8), (5, 10)], 20),  # no CoT is so long
        ({"start_removed": 2, "remove_all_beyond": 2}, [(2, 0)], 10),
        ({"final_epochs": 2.5, "remove_all_beyond": 1}, [(0, 0), (1, 2)], 27),
        ({"max_steps": 5}, [(0, 0), (1, 2), (2, 4)], 5),
        ({"max_steps": 4}, [(0, 0), (1, 2)], 4),  # the stage that would begin at the end is none
        ({"max_steps": 12}, [(0, 0), (1, 2), (2, 4), (3, 6), (4, 8), (5, 10)], 12),
        ({"max_steps": 1000}, [(0, 0), (1, 2), (2, 4), (3, 6), (4, 8), (5, 10)], 20),
        ({"kind": "explicit_cot", "final_epochs": 3}, [(0, 0)], 30),
        ({"kind": "explicit_cot", "final_epochs": 3, "max_steps": 7}, [(0, 0)], 7),
        ({"kind": "no_cot", "final_epochs": 3}, [(5, 0)], 30),
        ({"kind": "no_cot", "final_epochs": 0, "max_steps": 7}, [(5, 0)], 7),
        ({"kind": "no_cot", "remove_all_beyond": 2}, [(2, 0)], 10),
    ],
    ids=str,
)
def test_table(settings: dict[str, object], table: list[tuple[int, int]], num_steps: int) -> None:
    # 10 steps an epoch, 5 units an epoch, the longest CoT has 5 units.
    schedule = fixed(10, 5, **{"removed_per_epoch": 5, **settings})
    assert first_steps(schedule) == table
    assert schedule.num_steps == num_steps
    assert [stage.index for stage in schedule.stages] == [num_removed - table[0][0] for num_removed, _ in table]


@pytest.mark.parametrize(
    ("settings", "resets", "smooths", "removes_all"),
    [
        ({}, "-+++", "++++", "---+"),
        ({"hold_epochs": 1}, "--+++", "-++++", "----+"),
        ({"start_removed": 1}, "-++", "+++", "--+"),
        # A run that starts with some units gone smooths from its first step, held or not; s does not change at step 10.
        ({"start_removed": 1, "hold_epochs": 1}, "--++", "++++", "---+"),
        ({"remove_all_beyond": 2}, "-++", "+++", "--+"),
        # No reset without a change of s, no smoothing where nothing or everything is removed from the first step on.
        ({"kind": "explicit_cot"}, "-", "-", "-"),
        ({"kind": "no_cot"}, "-", "-", "+"),
        ({"start_removed": 3}, "-", "-", "+"),
        ({"max_steps": 5}, "-++", "+++", "---"),
    ],
    ids=str,
)
def test_which_stages_reset_smooth_and_remove_all(
    settings: dict[str, object], resets: str, smooths: str, removes_all: str
) -> None:
    stages = fixed(10, 3, **{"removed_per_epoch": 5, **settings}).stages
    assert "".join("+" if stage.resets_optimizer else "-" for stage in stages) == resets
    assert "".join("+" if stage.smooths else "-" for stage in stages) == smooths
    assert "".join("+" if stage.removes_all else "-" for stage in stages) == removes_all


def test_stage_at_and_around_boundaries() -> None:
    schedule = fixed(10, 3, removed_per_epoch=5, hold_epochs=0.5, final_epochs=0.5)
    assert [schedule.stage_at(step).index for step in range(16)] == [0] * 7 + [1] * 2 + [2] * 2 + [3] * 5
    # Asked once more when the run is over, by a loop that looks before it stops.
    assert schedule.stage_at(16).index == 3
    assert [schedule.stage_at(step).smooths for step in (4, 5)] == [False, True]  # the hold ends within stage 0
    assert [schedule.end_of(stage) for stage in schedule.stages] == [5, 7, 9, 11, 16]


def test_without_any_cot_there_is_one_stage_that_removes_all() -> None:
    schedule = fixed(10, 0)
    assert first_steps(schedule) == [(0, 0)]
    assert schedule.stages[0].removes_all
    assert schedule.num_steps == 10


@pytest.mark.parametrize("kind", ["fixed", "explicit_cot", "no_cot"])
def test_a_small_part_of_an_epoch_at_the_end_is_a_step_at_least(kind: str) -> None:
    # 0.04 epochs of 10 steps round to none: the last stage, whose model is the one kept, would never be trained.
    schedule = fixed(10, 3, kind=kind, final_epochs=0.04)
    last = schedule.stages[-1]
    assert last.removes_all or kind == "explicit_cot"
    assert schedule.num_steps == last.first_step + 1


def test_a_run_without_a_step_is_refused() -> None:
    # Known only once the data is: all of the CoT is gone at the start, and nothing follows.
    with pytest.raises(ValueError, match=r"schedule\.final_epochs"):
        fixed(10, 5, start_removed=5, final_epochs=0)


@pytest.mark.parametrize(
    ("longest_cot", "remove_all_beyond", "last"), [(47, None, 47), (47, 39, 39), (30, 39, 30), (0, None, 0), (0, 5, 0)]
)
def test_last_num_removed(longest_cot: int, remove_all_beyond: int | None, last: int) -> None:
    assert last_num_removed(longest_cot, remove_all_beyond) == last


# The adaptive schedule

ADAPTIVE = AdaptiveConfig(loss_threshold=0.1, window=3, min_steps=5, max_steps=20)


def held(num_removed: int, losses: list[float], first_step: int = 100, **state: object) -> AdaptiveState:
    """Return the state of a stage that has seen these losses."""
    stage = Stage(2, num_removed, removes_all=False, first_step=first_step, smooths=True, resets_optimizer=True)
    return AdaptiveState(stage, tuple(losses), **state)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "num_removed", "smooths", "removes_all"),
    [
        ({}, 0, False, False),
        ({"start_removed": 3}, 3, True, False),
        ({"start_removed": 10}, 10, True, True),
        ({"start_removed": 12}, 10, True, True),  # no more than there is
        ({"start_removed": 4, "remove_all_beyond": 4}, 4, True, True),
    ],
)
def test_adaptive_start(settings: dict[str, object], num_removed: int, smooths: bool, removes_all: bool) -> None:
    state = adaptive_start(ScheduleConfig(kind="adaptive", **settings), longest_cot=10)  # type: ignore[arg-type]
    assert state == AdaptiveState(
        Stage(0, num_removed, removes_all, first_step=0, smooths=smooths, resets_optimizer=False)
    )
    assert (state.pace, state.previous_loss) == (1.0, None)


def test_an_adaptive_run_has_a_step_at_least() -> None:
    with pytest.raises(UserError, match=r"schedule.final_epochs \(0\) leaves the run without a step"):
        adaptive_start(ScheduleConfig(kind="adaptive", start_removed=10, final_epochs=0), longest_cot=10)
    assert adaptive_start(ScheduleConfig(kind="adaptive", start_removed=9, final_epochs=0), longest_cot=10)


def test_running_loss_is_the_mean_of_the_window() -> None:
    state = held(1, [])
    assert state.running_loss == float("inf")
    means = []
    for loss in (4.0, 2.0, 0.0, 1.0, 5.0):
        state = adaptive_after_step(state, loss, ADAPTIVE)
        means.append(state.running_loss)
    assert means == [4.0, 3.0, 2.0, 1.0, 2.0]
    assert state.recent_losses == (0.0, 1.0, 5.0)


@pytest.mark.parametrize(
    ("losses", "num_steps_held", "decision"),
    [
        ([0.05, 0.05, 0.05], 5, "advance"),
        ([0.05, 0.05, 0.05], 4, "hold"),  # min_steps
        ([0.01, 0.01], 6, "hold"),  # the window is not full
        ([0.2, 0.05, 0.02], 6, "advance"),  # the mean counts: 0.09
        ([0.2, 0.05, 0.08], 6, "hold"),  # 0.11
        ([0.2, 0.2, 0.2], 19, "hold"),
        ([0.2, 0.2, 0.2], 20, "advance"),  # stalled
        ([float("nan")] * 3, 19, "hold"),
    ],
)
def test_decision_with_an_absolute_threshold(losses: list[float], num_steps_held: int, decision: str) -> None:
    assert adaptive_decision(held(1, losses), 100 + num_steps_held, ADAPTIVE) == decision


@pytest.mark.parametrize(
    ("loss_threshold", "previous_loss", "running_loss", "decision"),
    [
        (None, 0.2, 0.29, "advance"),  # under 1.5 * 0.2
        (None, 0.2, 0.31, "hold"),
        (None, None, 0.0, "hold"),  # the first stage has nothing to compare with: it waits for max_steps
        (0.1, 0.02, 0.09, "advance"),  # either threshold is enough
        (0.1, 0.2, 0.29, "advance"),
        (0.1, 0.02, 0.11, "hold"),
        (0.1, None, 0.09, "advance"),
    ],
)
def test_decision_with_a_relative_threshold(
    loss_threshold: float | None, previous_loss: float | None, running_loss: float, decision: str
) -> None:
    config = replace(ADAPTIVE, loss_threshold=loss_threshold, relative_threshold=1.5)
    state = held(1, [running_loss] * 3, previous_loss=previous_loss)
    assert adaptive_decision(state, 110, config) == decision


@pytest.mark.parametrize(
    ("num_removed", "on_stall", "decision"), [(3, "advance", "advance"), (3, "back", "back"), (0, "back", "advance")]
)
def test_a_stalled_stage_goes_where_the_settings_say(num_removed: int, on_stall: str, decision: str) -> None:
    config = replace(ADAPTIVE, on_stall=on_stall)
    assert adaptive_decision(held(num_removed, [0.5] * 3), 119, config) == "hold"
    # With the full CoT there is nothing to go back to.
    assert adaptive_decision(held(num_removed, [0.5] * 3), 120, config) == decision


def test_recovery_at_the_last_moment_is_no_stall() -> None:
    config = replace(ADAPTIVE, on_stall="back")
    assert adaptive_decision(held(3, [0.05] * 3), 120, config) == "advance"


def test_pace_stretches_both_limits() -> None:
    config = replace(ADAPTIVE, on_stall="back")
    good, bad = held(1, [0.01] * 3, pace=2.0), held(1, [0.5] * 3, pace=2.0)
    assert [adaptive_decision(good, 100 + steps, config) for steps in (5, 9, 10)] == ["hold", "hold", "advance"]
    assert [adaptive_decision(bad, 100 + steps, config) for steps in (20, 39, 40)] == ["hold", "hold", "back"]


@pytest.mark.parametrize(
    ("num_removed", "per_stage", "decision", "expected", "removes_all", "resets"),
    [
        (3, 1, "advance", 4, False, True),
        (3, 4, "advance", 7, False, True),
        (9, 1, "advance", 10, True, True),
        (9, 4, "advance", 10, True, True),  # clamped at the end
        (3, 1, "back", 2, False, True),  # a reset on the way down, too
        (3, 4, "back", 0, False, True),  # clamped at the full CoT
        (0, 1, "back", 0, False, False),  # nothing changed: no reset
        (0, 1, "advance", 1, False, True),
    ],
)
def test_move(num_removed: int, per_stage: int, decision: str, expected: int, removes_all: bool, resets: bool) -> None:
    config = replace(ADAPTIVE, removed_per_stage=per_stage)
    before = held(num_removed, [0.2, 0.3, 0.4], pace=2.0, previous_loss=9.0)
    after = adaptive_move(before, decision, 117, config, last=10)  # type: ignore[arg-type]
    added = expected - num_removed if decision == "advance" else min(per_stage, expected)
    assert after.stage == Stage(
        3, expected, removes_all, 117, smooths=expected > 0, resets_optimizer=resets, num_added=added
    )
    assert after.recent_losses == ()  # the new stage's mean holds no loss of the old one
    assert after.previous_loss == (9.0 if decision == "back" else pytest.approx(0.3))  # a stalled loss is no measure
    assert after.pace == (4.0 if decision == "back" else 2.0)


@pytest.mark.parametrize(
    ("num_removed", "decision", "expected", "num_added"),
    [
        (0, "advance", 4, 4),
        (4, "advance", 7, 3),
        (5, "advance", 7, 2),  # a run that started between two
        (7, "advance", 10, 3),  # behind the last stop comes everything
        (10, "back", 7, 3),
        (4, "back", 0, 0),
        (0, "back", 0, 0),
    ],
)
def test_stages_stand_at_the_stops(num_removed: int, decision: str, expected: int, num_added: int) -> None:
    config = replace(ADAPTIVE, stops=[4, 7, 30])  # rows that are shorter than a stop never see it
    after = adaptive_move(held(num_removed, [0.2] * 3), decision, 117, config, last=10)  # type: ignore[arg-type]
    assert (after.stage.num_removed, after.stage.removes_all) == (expected, expected == 10)
    assert after.stage.num_added == num_added


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"removed_per_epoch": 2.0}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ({"start_removed": 8}, [8, 9, 10]),
        ({"remove_all_beyond": 2}, [0, 1, 2]),
        ({"kind": "no_cot"}, [10]),
        ({"kind": "explicit_cot"}, [0]),
        ({"kind": "adaptive", "adaptive": AdaptiveConfig(removed_per_stage=4), "start_removed": 1}, [1, 5, 9, 10]),
        ({"kind": "adaptive", "adaptive": AdaptiveConfig(stops=[3, 7, 30])}, [0, 3, 7, 10]),
    ],
)
def test_the_numbers_at_which_stages_stand(settings: dict[str, Any], expected: list[int]) -> None:
    assert stage_numbers(ScheduleConfig(**settings), longest_cot=10) == expected


def test_slow_down_is_the_factor() -> None:
    config = replace(ADAPTIVE, slow_down=1.5)
    state = held(5, [0.5] * 3)
    for _ in range(2):
        state = adaptive_move(state, "back", 200, config, last=10)
    assert state.pace == 2.25
    assert adaptive_move(state, "advance", 300, config, last=10).pace == 2.25


def test_a_run_by_hand() -> None:
    """Two units; the second stage stalls, goes back once, and the schedule then gets through at half the pace."""
    config = AdaptiveConfig(loss_threshold=0.1, window=2, min_steps=2, max_steps=4, on_stall="back")
    state = adaptive_start(ScheduleConfig(kind="adaptive"), longest_cot=2)
    #          s = 0     s = 1 stalls         back at s = 0: at least 4 steps   s = 1
    losses = [0.3, 0.0, 0.0, 0.9, 0.9, 0.9, 0.9, 0.0, 0.0, 0.0, 0.0, 0.3, 0.3, 0.0, 0.0]
    path = []
    for step, loss in enumerate(losses, start=1):
        state = adaptive_after_step(state, loss, config)
        decision = adaptive_decision(state, step, config)
        if decision != "hold":
            state = adaptive_move(state, decision, step, config, last=2)
            path.append((state.stage.first_step, state.stage.num_removed, state.pace))
    assert path == [(3, 1, 1.0), (7, 0, 2.0), (11, 1, 2.0), (15, 2, 2.0)]
    assert state.stage == Stage(4, 2, removes_all=True, first_step=15, smooths=True, resets_optimizer=True, num_added=1)
