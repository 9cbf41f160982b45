"""The stages of a run, and how long rows and stages are. Pure."""

from dataclasses import dataclass

import numpy as np

from pipeline.config import RemovalConfig, ScheduleConfig
from pipeline.plan.lengths import RowLengths
from pipeline.removal import earlier_share_at
from pipeline.schedule import Stage, adaptive_course, fewest_steps, fixed_schedule, num_final_steps


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage. Rows of ``removal.earlier_share`` are counted; smoothing, which removes a little more, is not."""

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
        removal: Of the recipe; smoothing and positions play no part.
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
        amounts = _amounts(stage, removal)
        shares = np.array([share for share, _, _ in amounts])
        found = [_lengths_at(lengths, removal, number, removes_all) for _, number, removes_all in amounts]
        means, maxima = zip(*found, strict=True)
        share_with_cot, mean_tokens, mean_labels, mean_square = (shares @ np.array(means)).tolist()
        max_tokens, max_labels = np.max(maxima, axis=0).tolist()
        plans.append(
            StagePlan(
                stage.num_removed,
                stage.removes_all,
                share_with_cot,
                mean_tokens,
                max_tokens,
                mean_labels,
                max_labels,
                mean_square,
                min_steps=min_steps,
                max_steps=max_steps,
                resets_optimizer=stage.resets_optimizer and resets,
            )
        )
    return plans


def _amounts(stage: Stage, removal: RemovalConfig) -> list[tuple[float, int, bool]]:
    """Return what rows lose at a stage: their share, the number of units, and whether all go."""
    own = (stage.num_removed, stage.removes_all)
    earlier_share = earlier_share_at(stage.num_removed, stage.num_added, removal.earlier_share, removal.earlier_from)
    if not earlier_share:
        return [(1.0, *own)]
    share = earlier_share / stage.num_added
    earlier = [(share, stage.num_removed - back, False) for back in range(1, stage.num_added + 1)]
    return [(1 - earlier_share, *own), *earlier]


def _lengths_at(
    lengths: RowLengths, removal: RemovalConfig, num_removed: int, removes_all: bool
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return the share of rows with CoT and the means of tokens, labels and squared tokens; most tokens and labels."""
    cot = lengths.cot_left(num_removed, removes_all, removal.side, removal.unit)
    labels = lengths.labels(cot)
    tokens = lengths.prompt + labels
    means = (np.mean(cot > 0), tokens.mean(), labels.mean(), np.mean(tokens.astype(np.float64) ** 2))
    return tuple(map(float, means)), (int(tokens.max()), int(labels.max()))


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
    fastest = fewest_steps(schedule.adaptive)
    slowest = max(schedule.adaptive.max_steps, fastest)
    final = num_final_steps(schedule.final_epochs, steps_per_epoch)
    *before, last = adaptive_course(schedule, longest_cot)
    return [*((stage, fastest, slowest) for stage in before), (last, final, final)]


def steps_of_course(stages: list[StagePlan], slowest: bool, max_steps: int | None) -> list[int]:
    """Return the optimizer steps in each stage, of the fastest or the slowest course, cut where the run ends."""
    steps = []
    left = sum(stage.max_steps for stage in stages) if max_steps is None else max_steps
    for stage in stages:
        steps.append(min(stage.max_steps if slowest else stage.min_steps, left))
        left -= steps[-1]
    return steps
