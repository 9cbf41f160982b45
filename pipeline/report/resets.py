"""What each optimizer reset did to the loss. Pure: rows in, one result a reset."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.run import Row, number


@dataclass(frozen=True, slots=True)
class Reset:
    """One reset and what followed; None where it is not known."""

    step: int
    """The first step after the reset."""
    removed_before: int | None
    removed_after: int
    moment_norm: float | None
    """L2 norm of AdamW's first moments just before."""
    second_moment_norm: float | None
    loss_before: float | None
    """Of the last row before."""
    loss_step: int | None
    """The step of that row."""
    loss_after: float | None
    """Of the first step after."""
    steps_to_recover: int | None
    """Updates until the loss was at or under ``loss_before`` again; None if it was not before the next reset."""
    num_steps_seen: int
    """Updates from the reset to the last row before the next one."""

    @property
    def bump(self) -> float | None:
        """By how much the loss rose at once, in nats per label token."""
        if self.loss_before is None or self.loss_after is None:
            return None
        return self.loss_after - self.loss_before


def reset_telemetry(train: Sequence[Row], resets: Sequence[Row]) -> list[Reset]:
    """Set each reset beside the losses around it.

    The loss is that of single batches, before the update that each one makes; it is known at the steps that have a
    row: every ``run.log_every``, and the first of each stage.

    Args:
        train: Rows of kind ``train``, by step.
        resets: Rows whose ``step`` is the first after a reset, by step.
    """
    known = [(row["step"], loss) for row in train if (loss := number(row.get("loss"))) is not None]
    removed = {row["step"]: row["num_removed"] for row in train}
    places = [bisect_left(known, (reset["step"],)) for reset in resets]
    results = []
    for reset, place, end in zip(resets, places, [*places, len(known)][1:], strict=True):
        step, after = reset["step"], known[place:end]
        loss_step, loss_before = known[place - 1] if place else (None, None)
        recovered = (at for at, loss in after if loss_before is not None and loss <= loss_before)
        back = next(recovered, None)
        results.append(
            Reset(
                step=step,
                removed_before=None if loss_step is None else removed[loss_step],
                removed_after=reset["num_removed"],
                moment_norm=number(reset.get("moment_norm")),
                second_moment_norm=number(reset.get("second_moment_norm")),
                loss_before=loss_before,
                loss_step=loss_step,
                loss_after=after[0][1] if after and after[0][0] == step else None,
                steps_to_recover=None if back is None else back - step,
                num_steps_seen=after[-1][0] - step if after else 0,
            )
        )
    return results
