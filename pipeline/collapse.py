"""Has a stage ended in collapse, with a loss far above that of the stage before? Pure: losses in, verdict out."""

from dataclasses import dataclass, replace

WINDOW = 20
"""Steps whose mean counts as the loss at a stage's end."""
SMALLEST_RISE = 0.05
"""Nats per label token: below that a multiple of a tiny loss says nothing."""


@dataclass(frozen=True, slots=True)
class LossWatch:
    """What is remembered of the losses."""

    recent: tuple[float, ...] = ()
    """Of the present stage's latest steps, at most ``WINDOW``."""
    reference: float | None = None
    """At the end of the last stage that had not collapsed; None before the first has ended."""
    has_collapsed: bool = False
    """Whether the stage that ended last had."""


def after_step(watch: LossWatch, loss: float) -> LossWatch:
    """Take in the loss of a step, in nats per label token."""
    return replace(watch, recent=(*watch.recent, loss)[-WINDOW:])


def after_stage(watch: LossWatch, ratio: float) -> tuple[LossWatch, float]:
    """Judge a stage that has ended.

    Args:
        watch: With at least one step of the stage.
        ratio: The stage has collapsed if its loss is above so many times the reference.

    Returns:
        What is remembered for the next stage, ``has_collapsed`` being the verdict; and the loss at the stage's end.
    """
    loss = sum(watch.recent) / len(watch.recent)
    reference = loss if watch.reference is None else watch.reference
    if loss > max(ratio * reference, reference + SMALLEST_RISE):
        return LossWatch(reference=reference, has_collapsed=True), loss
    return LossWatch(reference=loss), loss
