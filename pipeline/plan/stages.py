"""The stages of a run, and how long rows and stages are. Pure."""

from dataclasses import dataclass

import numpy as np

from pipeline.config import RemovalConfig, ScheduleConfig
from pipeline.plan.lengths import RowLengths
from pipeline.schedule import (
    Stage,
    adaptive_start,
    fixed_schedule,
    last_num_removed,
    next_num_removed,
    num_final_steps,
)


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage, as it will be; smoothing, which takes a little more away, is left out."""

    num_removed: int
    """Scheduled number of removed CoT units."""
    removes_all: bool
    share_with_cot: float
    """Of the rows, those with CoT left."""
    mean_tokens: float
    """In a row, unpadded."""
    max_tokens: int
    mean_labels: float
    """Tokens of a row that carry loss."""
    max_labels: int
    mean_square: float
    """Mean of the squared row lengths."""
    min_steps: int
    """Optimizer steps at least."""
    max_steps: int
    """At most; differs from ``min_steps`` under the adaptive schedule only, and leaves out going back there."""
    resets_optimizer: bool


def plan_stages(
    schedule: ScheduleConfig, removal: RemovalConfig, lengths: RowLengths, steps_per_epoch: int, resets: bool
) -> list[StagePlan]:
    """Return every stage in order.

    Args:
        schedule: Of the recipe.
        removal: Side and unit.
        lengths: Of the training rows, or of rows that stand for them.
        steps_per_epoch: Optimizer steps in one pass over the training rows.
        resets: Whether a removal resets the optimizer.

    Raises:
        UserError: If the run has no step.
    """
    if schedule.kind == "adaptive":
        courses = _adaptive_course(schedule, steps_per_epoch, lengths.longest_cot(removal.unit))
    else:
        courses = _fixed_course(schedule, steps_per_epoch, lengths.longest_cot(removal.unit))
    plans = []
    for stage, min_steps, max_steps in courses:
        cot = lengths.cot_left(stage.num_removed, stage.removes_all, removal.side, removal.unit)
        labels = lengths.labels(cot)
        tokens = lengths.prompt + labels
        plans.append(
            StagePlan(
                stage.num_removed,
                stage.removes_all,
                share_with_cot=float(np.mean(cot > 0)),
                mean_tokens=float(tokens.mean()),
                max_tokens=int(tokens.max()),
                mean_labels=float(labels.mean()),
                max_labels=int(labels.max()),
                mean_square=float(np.mean(tokens.astype(np.float64) ** 2)),
                min_steps=min_steps,
                max_steps=max_steps,
                resets_optimizer=stage.resets_optimizer and resets,
            )
        )
    return plans


def _fixed_course(schedule: ScheduleConfig, steps_per_epoch: int, longest_cot: int) -> list[tuple[Stage, int, int]]:
    laid_out = fixed_schedule(schedule, steps_per_epoch, longest_cot)
    course: list[tuple[Stage, int, int]] = []
    for stage in laid_out.stages:
        steps = laid_out.end_of(stage) - stage.first_step
        if course and course[-1][0].num_removed == stage.num_removed:  # a held stage 0 goes on, with smoothing
            held, before, _ = course.pop()
            course.append((held, before + steps, before + steps))
        else:
            course.append((stage, steps, steps))
    return course


def _adaptive_course(schedule: ScheduleConfig, steps_per_epoch: int, longest_cot: int) -> list[tuple[Stage, int, int]]:
    """Return the way straight to the end, each stage at its fastest and at its slowest."""
    adaptive = schedule.adaptive
    last = last_num_removed(longest_cot, schedule.remove_all_beyond)
    start = adaptive_start(schedule, longest_cot).stage
    fastest = max(adaptive.min_steps, adaptive.window)  # the running mean must be full
    final = num_final_steps(schedule.final_epochs, steps_per_epoch)
    numbers = [start.num_removed]
    while numbers[-1] < last:
        numbers.append(next_num_removed(numbers[-1], "advance", adaptive, last))
    return [
        (
            Stage(index, number, number == last, 0, smooths=number > 0, resets_optimizer=index > 0),
            final if number == last else fastest,
            final if number == last else max(adaptive.max_steps, fastest),
        )
        for index, number in enumerate(numbers)
    ]


def steps_of_course(stages: list[StagePlan], slowest: bool, max_steps: int | None) -> list[int]:
    """Return the optimizer steps in each stage, of the fastest or the slowest course, cut where the run ends."""
    steps = []
    left = sum(stage.max_steps for stage in stages) if max_steps is None else max_steps
    for stage in stages:
        steps.append(min(stage.max_steps if slowest else stage.min_steps, left))
        left -= steps[-1]
    return steps
