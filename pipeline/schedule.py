"""Which stage a run is in. Pure: plain numbers in, stages out; no torch, no files.

Source: arXiv:2405.14838, section 3; the adaptive schedule is ours.
"""

import bisect
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.config import AdaptiveConfig, ScheduleConfig
from pipeline.errors import UserError

NO_STEP = "schedule.final_epochs (0) leaves the run without a step; raise it."


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of training in which the same number of CoT units is scheduled to be removed."""

    index: int
    """How often the number of removed units has changed before; grows also when an adaptive schedule goes back."""
    num_removed: int
    """Scheduled number of removed units, s."""
    removes_all: bool
    """Whether every unit goes, however long the CoT."""
    first_step: int
    """The optimizer step at which the stage begins."""
    smooths: bool
    """Whether training rows draw a smoothing offset."""
    resets_optimizer: bool
    """Whether the optimizer starts afresh at ``first_step``."""
    num_added: int = 0
    """Units removed here that the stage before it, on the way from none to all, still had; 0 in a run's first stage."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A fixed course: its stages in order, and where it ends."""

    stages: tuple[Stage, ...]
    num_steps: int
    """Optimizer steps of the whole run."""

    def stage_at(self, step: int) -> Stage:
        """Return the stage that optimizer step ``step`` (from 0) belongs to."""
        return self.stages[bisect.bisect_right(self.stages, step, key=lambda stage: stage.first_step) - 1]

    def end_of(self, stage: Stage) -> int:
        """Return the first optimizer step that no longer belongs to ``stage``."""
        follows = self.stages.index(stage) + 1
        return self.stages[follows].first_step if follows < len(self.stages) else self.num_steps


def last_num_removed(longest_cot: int, remove_all_beyond: int | None) -> int:
    """Return the number of removed units at which nothing is left of any training row.

    Args:
        longest_cot: Units in the longest training CoT, >= 0.
        remove_all_beyond: Number at which everything that is left goes at once, or None.
    """
    return longest_cot if remove_all_beyond is None else min(longest_cot, remove_all_beyond)


def num_final_steps(final_epochs: float, steps_per_epoch: int) -> int:
    """Return the optimizer steps of the last stage: at least one, if it lasts at all."""
    return max(1, round(final_epochs * steps_per_epoch)) if final_epochs else 0


def fixed_schedule(config: ScheduleConfig, steps_per_epoch: int, longest_cot: int) -> Schedule:
    """Lay out a fixed schedule or a baseline.

    After ``hold_epochs``, one more unit goes every ``max(1, round(steps_per_epoch / removed_per_epoch))`` steps,
    counted through epochs. The table ends with the stage at which nothing is left, which lasts ``final_epochs``.

    Args:
        config: Settings whose kind is ``fixed``, ``explicit_cot`` or ``no_cot``.
        steps_per_epoch: Optimizer steps in one pass over the training rows, >= 1.
        longest_cot: Units (tokens or steps) in the longest training CoT.

    Raises:
        UserError: If the run has no step.

    Source: arXiv:2405.14838, section 3.
    """
    assert config.kind != "adaptive"
    final_steps = num_final_steps(config.final_epochs, steps_per_epoch)
    last = last_num_removed(longest_cot, config.remove_all_beyond)
    if config.kind == "explicit_cot":
        stages = [Stage(0, 0, removes_all=False, first_step=0, smooths=False, resets_optimizer=False)]
    elif config.kind == "no_cot" or config.start_removed >= last:
        stages = [Stage(0, last, removes_all=True, first_step=0, smooths=False, resets_optimizer=False)]
    else:
        stages = _removal_stages(config, steps_per_epoch, last)
    num_steps = stages[-1].first_step + final_steps
    if config.max_steps is not None:
        num_steps = config.max_steps if len(stages) == 1 else min(num_steps, config.max_steps)
    if num_steps == 0:
        raise UserError(NO_STEP)
    return Schedule(tuple(stage for stage in stages if stage.first_step < num_steps), num_steps)


def _removal_stages(config: ScheduleConfig, steps_per_epoch: int, last: int) -> list[Stage]:
    hold = round(config.hold_epochs * steps_per_epoch)
    pace = max(1, round(steps_per_epoch / config.removed_per_epoch))
    start = config.start_removed
    # A held stage 0 has two rows: while it is held no offset is drawn, after that one is.
    rows = [(start, 0, start > 0)] if hold else []
    rows += [(num_removed, hold + pace * (num_removed - start), True) for num_removed in range(start, last + 1)]
    return [
        Stage(
            num_removed - start,
            num_removed,
            removes_all=num_removed == last,
            first_step=first_step,
            smooths=smooths,
            resets_optimizer=num_removed > start,
            num_added=int(num_removed > start),
        )
        for num_removed, first_step, smooths in rows
    ]


@dataclass(frozen=True, slots=True)
class AdaptiveState:
    """Where an adaptive run stands: all that its next decision depends on."""

    stage: Stage
    recent_losses: tuple[float, ...] = ()
    """Losses of the stage's last steps, at most ``window``."""
    previous_loss: float | None = None
    """Running loss with which the stage before ended, of those that did not go back; None in the first stage."""
    pace: float = 1.0
    """Factor on ``min_steps`` and ``max_steps``; grows each time the schedule goes back."""

    @property
    def running_loss(self) -> float:
        """Mean of the recent losses; infinite before the first."""
        return sum(self.recent_losses) / len(self.recent_losses) if self.recent_losses else float("inf")


def adaptive_start(config: ScheduleConfig, longest_cot: int) -> AdaptiveState:
    """Return the state before the first step: ``start_removed`` units gone, no smoothing while none is.

    Raises:
        UserError: If the run has no step.
    """
    last = last_num_removed(longest_cot, config.remove_all_beyond)
    start = min(config.start_removed, last)
    if start == last and config.final_epochs == 0:
        raise UserError(NO_STEP)
    return AdaptiveState(
        Stage(0, start, removes_all=start == last, first_step=0, smooths=start > 0, resets_optimizer=False)
    )


def adaptive_after_step(state: AdaptiveState, loss: float, config: AdaptiveConfig) -> AdaptiveState:
    """Add one step's training loss to the running mean."""
    return replace(state, recent_losses=(*state.recent_losses, loss)[-config.window :])


def adaptive_decision(
    state: AdaptiveState, next_step: int, config: AdaptiveConfig
) -> Literal["hold", "advance", "back"]:
    """Decide what follows after the step before ``next_step``.

    A stage ends when the running loss, over a full window, is under a threshold, not before ``min_steps``. One that is
    not there after ``max_steps`` has stalled, and goes on or back as the settings say.
    """
    held = next_step - state.stage.first_step
    thresholds = [config.loss_threshold] if config.loss_threshold is not None else []
    if config.relative_threshold is not None and state.previous_loss is not None:
        thresholds.append(config.relative_threshold * state.previous_loss)
    window_is_full = len(state.recent_losses) == config.window
    recovered = window_is_full and any(state.running_loss < threshold for threshold in thresholds)
    if held >= config.min_steps * state.pace and recovered:
        return "advance"
    if held >= config.max_steps * state.pace:
        return "back" if config.on_stall == "back" and state.stage.num_removed > 0 else "advance"
    return "hold"


def adaptive_move(
    state: AdaptiveState, decision: Literal["advance", "back"], next_step: int, config: AdaptiveConfig, last: int
) -> AdaptiveState:
    """Return the state at the beginning of the stage that a decision leads to.

    Args:
        state: Where the run stands.
        decision: What ``adaptive_decision`` said.
        next_step: The first optimizer step of the new stage.
        config: Settings of the adaptive schedule.
        last: The number of removed units at which nothing is left.
    """
    num_removed = next_num_removed(state.stage.num_removed, decision, config, last)
    # Behind `last` the stage before is not `removed_per_stage` away.
    before = state.stage.num_removed if decision == "advance" else next_num_removed(num_removed, "back", config, last)
    stage = Stage(
        state.stage.index + 1,
        num_removed,
        removes_all=num_removed == last,
        first_step=next_step,
        smooths=num_removed > 0,
        resets_optimizer=num_removed != state.stage.num_removed,
        num_added=num_removed - before,
    )
    if decision == "back":  # the loss of a stage that stalled is no measure for the next
        return AdaptiveState(stage, previous_loss=state.previous_loss, pace=state.pace * config.slow_down)
    return AdaptiveState(stage, previous_loss=state.running_loss, pace=state.pace)


def adaptive_course(config: ScheduleConfig, longest_cot: int) -> list[Stage]:
    """Return the stages of an adaptive run on the way straight to its end, each as short as it can be.

    Args:
        config: Settings whose kind is ``adaptive``.
        longest_cot: Units in the longest training CoT.

    Raises:
        UserError: If the run has no step.
    """
    adaptive, last = config.adaptive, last_num_removed(longest_cot, config.remove_all_beyond)
    state = adaptive_start(config, longest_cot)
    stages = [state.stage]
    while not stages[-1].removes_all:
        next_step = stages[-1].first_step + fewest_steps(adaptive)
        state = adaptive_move(state, "advance", next_step, adaptive, last)
        stages.append(state.stage)
    return stages


def fewest_steps(config: AdaptiveConfig) -> int:
    """Return the optimizer steps of a stage that is learned at once: the running mean must be full."""
    return max(config.min_steps, config.window)


def stage_numbers(config: ScheduleConfig, longest_cot: int) -> list[int]:
    """Return the numbers of removed units at which a run's stages stand on the way straight to its end.

    Args:
        config: Of any kind.
        longest_cot: Units in the longest training CoT.
    """
    last = last_num_removed(longest_cot, config.remove_all_beyond)
    if config.kind == "explicit_cot":
        return [0]
    if config.kind == "no_cot":
        return [last]
    if config.kind == "adaptive":
        return [stage.num_removed for stage in adaptive_course(config, longest_cot)]
    return list(range(min(config.start_removed, last), last + 1))


def next_num_removed(num_removed: int, decision: Literal["advance", "back"], config: AdaptiveConfig, last: int) -> int:
    """Return how many units are removed in the stage that follows one with ``num_removed``, at most ``last``."""
    if not config.stops:
        change = config.removed_per_stage if decision == "advance" else -config.removed_per_stage
        return min(max(num_removed + change, 0), last)
    if decision == "advance":
        return min((stop for stop in config.stops if num_removed < stop < last), default=last)
    return max((stop for stop in config.stops if stop < num_removed), default=0)
