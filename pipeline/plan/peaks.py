"""What a model keeps in memory beyond weights at the worst moments of a pass. Pure; ``trace`` finds it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes alive at the worst moment."""

    activations: int = 0
    logits: int = 0
    """All that has one number for each label and each word of the vocabulary."""
    gradients: int = 0
    """Of weights, as far as they are there at that moment."""

    @property
    def total(self) -> int:
        """Sum of all kinds."""
        return self.activations + self.logits + self.gradients


@dataclass(frozen=True, slots=True)
class MicroBatchTrace:
    """The worst moments of a micro-batch's forward and backward pass."""

    before_gradients: Peak
    """Until the first weight gradient is complete."""
    after_top: Peak
    """From then on, while the last layer's gradients are made; a gradient counts as an activation until it is complete,
    and not at all after that."""
    after_bottom: Peak
    """While the first layer's are made, at the end."""
    gathering_top: Peak
    """Until the last layer's gradients are made, those that are complete included."""
    gathering_bottom: Peak
    """While the first layer's are made."""

    # From the last layer to the first, activations go and gradients come at a steady pace: no moment between is worse.
    @property
    def after_first_gradient(self) -> Peak:
        """Of the backward pass, without gradients that are complete."""
        return larger(self.after_top, self.after_bottom)

    @property
    def gathering_gradients(self) -> Peak:
        """Of the whole, complete gradients included: for a step of one micro-batch, which begins without any."""
        return larger(self.gathering_top, self.gathering_bottom)


def larger(one: Peak, other: Peak) -> Peak:
    """Return the worse of two moments; the first if they are alike."""
    return other if other.total > one.total else one


def between(few: MicroBatchTrace, many: MicroBatchTrace, share: float) -> MicroBatchTrace:
    """Estimate a trace from one with fewer rows, or layers, and one with more.

    Each moment's bytes grow in proportion to rows and layers, and the worst moment is the largest of these, so a point
    between the two lies under their chord: the estimate may be too high, not too low. Beyond ``many`` it is the other
    way, but for layers that are all alike, which change no moment's place among the others.

    Args:
        few: Of the smaller micro-batch or model.
        many: Of the larger one.
        share: 0 at ``few``, 1 at ``many``, more beyond.
    """

    def blend(low: Peak, high: Peak) -> Peak:
        numbers = [
            round(getattr(low, part) + share * (getattr(high, part) - getattr(low, part)))
            for part in ("activations", "logits", "gradients")
        ]
        return Peak(*(max(number, 0) for number in numbers))

    return MicroBatchTrace(
        blend(few.before_gradients, many.before_gradients),
        blend(few.after_top, many.after_top),
        blend(few.after_bottom, many.after_bottom),
        blend(few.gathering_top, many.gathering_top),
        blend(few.gathering_bottom, many.gathering_bottom),
    )


@dataclass(frozen=True, slots=True)
class DecodingTrace:
    """The first forward pass of a decoding, over prompts."""

    peak: int
    """Bytes at the worst moment, cache included."""
    cache: int
    """Bytes of keys and values that stay."""
