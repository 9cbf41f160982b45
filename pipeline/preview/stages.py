"""Which stages a run goes through, and which of them to show. Pure."""

from collections.abc import Sequence

from pipeline.config import ScheduleConfig
from pipeline.errors import UserError, listed
from pipeline.schedule import Stage, adaptive_course, fixed_schedule


def course_of(config: ScheduleConfig, steps_per_epoch: int, longest_cot: int) -> list[Stage]:
    """Return the stages of a run, in order.

    An adaptive schedule decides while it runs. Its stages here are those of the way straight to the end, each as short
    as it can be, so that none begins later than said.

    Args:
        config: Settings of the schedule.
        steps_per_epoch: Optimizer steps in one pass over the training rows.
        longest_cot: Units (tokens or steps) in the longest training CoT.

    Raises:
        UserError: If the run has no step.
    """
    if config.kind != "adaptive":
        return list(fixed_schedule(config, steps_per_epoch, longest_cot).stages)
    stages = adaptive_course(config, longest_cot)
    return [stage for stage in stages if config.max_steps is None or stage.first_step < config.max_steps]


def choose_stages(course: Sequence[Stage], wanted: str | None) -> list[Stage]:
    """Return the stages to show, in the order of the run.

    Args:
        course: Every stage of the run.
        wanted: Numbers of removed units, and ``last`` for the run's last, with commas between. None takes the first
            stage, those a quarter and half way through, and the last. A first stage that is held without smoothing is
            followed by one with it: both have the same number, and without being asked for only the first is shown.

    Raises:
        UserError: If the run has no such stage.
    """
    numbers = list(dict.fromkeys(stage.num_removed for stage in course))
    if wanted is None:
        end = len(numbers) - 1
        spread = [numbers[place] for place in sorted({0, end // 4, end // 2, end})]
        return [next(stage for stage in course if stage.num_removed == number) for number in spread]
    by_name = {str(number): number for number in numbers} | {"last": numbers[-1]}
    names = [name.strip() for name in wanted.split(",")]
    if unknown := [name for name in names if name not in by_name]:
        raise UserError(
            f"--stages ({wanted}): no stage of this run has {', '.join(map(repr, unknown))} removed units; take from "
            f"{listed(numbers)} or last."
        )
    chosen = {by_name[name] for name in names}
    return [stage for stage in course if stage.num_removed in chosen]
