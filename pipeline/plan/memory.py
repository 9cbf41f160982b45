"""Peak memory of one GPU, as arithmetic over what DeepSpeed 0.19 holds at each moment of a step.

The rules were read in its source and seen by counting live tensors in real steps (docs/planning.md): engine.py and
unfused_optimizer.py for ZeRO-0, stage_1_and_2.py, stage3.py and partitioned_param_coordinator.py.
"""

import math
from dataclasses import dataclass, fields

from pipeline.model_size import ModelSize
from pipeline.plan.peaks import MicroBatchTrace, Peak
from pipeline.plan.zero import DEFAULT_BUCKET, ZeroSettings

FP32_BYTES = 4
ADAM_BYTES = {"adamw": 8.0, "paged_adamw_8bit": 2 * (1 + 4 / 256)}  # two moments; 8 bits with a scale for each 256
ALL_REDUCE_AT_ONCE = DEFAULT_BUCKET  # elements that DeepSpeed's engine flattens for ZeRO-0


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one GPU at one moment."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    """Moments, and fp32 masters where there are some."""
    activations: int = 0
    logits: int = 0
    buffers: int = 0
    """Copies in transit: reduce buckets, gathered weights, unpacked matrices, gradients on the way to the optimizer."""

    @property
    def total(self) -> int:
        """Sum of all kinds."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class Placement:
    """What is computed how, and on how many GPUs."""

    zero: ZeroSettings
    num_gpus: int
    element_bytes: int
    """Of a weight, activation or gradient: 4 in fp32, 2 in bf16."""
    optimizer: str
    """``optim.optimizer`` of the recipe."""
    num_micro_batches: int
    """In the largest step, on one GPU."""
    gradient_checkpointing: bool
    on_cpu: bool = False
    """CPU ranks, which the model is measured on: a buffer costs what is written to, where a GPU's costs what it is made
    for."""


def memory_by_phase(
    size: ModelSize, micro_batch: MicroBatchTrace, decoding_bytes: int | None, place: Placement
) -> dict[str, Memory]:
    """Return what a GPU holds at the worst moment of each phase.

    Args:
        size: Of the model.
        micro_batch: The largest micro-batch.
        decoding_bytes: Of evaluation's forward passes with their cache; None leaves evaluation out.
        place: Where and how.
    """
    phases = {
        "forward and backward": _passes(size, micro_batch, place),
        "gradient reduction": _reduction(size, place),
        "optimizer step": _step(size, place),
    }
    if decoding_bytes is not None:
        phases["evaluation"] = _evaluation(size, decoding_bytes, place)
    return phases


def host_bytes(size: ModelSize, place: Placement) -> int:
    """Return what offloading keeps in the machine's memory for each GPU."""
    weights = size.weight_bytes / place.num_gpus if place.zero.offloads_weights else 0
    states = ADAM_BYTES[place.optimizer] + FP32_BYTES  # masters
    gradients = FP32_BYTES + place.element_bytes
    per_weight = states + gradients if place.zero.offloads_optimizer else 0
    return math.ceil(weights + per_weight * _share(size, place))


def _share(size: ModelSize, place: Placement) -> int:
    """Return how many trained weights this GPU's optimizer updates."""
    return math.ceil(size.num_trained / place.num_gpus) if place.zero.stage > 0 else size.num_trained


def _weights(size: ModelSize, place: Placement) -> int:
    if place.zero.stage < 3:
        return size.weight_bytes
    partition = 0 if place.zero.offloads_weights else math.ceil(size.weight_bytes / place.num_gpus)
    whole = sum(number for number in size.parameter_sizes if number <= place.zero.persistence)
    return partition + whole * place.element_bytes


def _optimizer(size: ModelSize, place: Placement) -> int:
    if place.zero.offloads_optimizer:
        return 0
    # fp32 without ZeRO updates the weights themselves; everything else keeps fp32 masters, also of fp32 weights.
    has_masters = place.zero.stage > 0 or place.element_bytes < FP32_BYTES
    per_weight = ADAM_BYTES[place.optimizer] + (FP32_BYTES if has_masters else 0)
    return math.ceil(per_weight * _share(size, place))


def _reduce_buffers(size: ModelSize, place: Placement) -> int:
    if place.zero.stage == 0:
        return 0
    bucket = min(place.zero.reduce_bucket, size.num_trained) if place.on_cpu else place.zero.reduce_bucket
    return place.zero.num_buckets * bucket * place.element_bytes


def _gradients_kept(size: ModelSize, place: Placement) -> int:
    """Return the gradients that stay from one micro-batch of a step to the next."""
    if place.zero.offloads_optimizer:
        return 0
    kept = size.num_trained if place.zero.stage < 2 else _share(size, place)
    return kept * place.element_bytes


def _gathered(size: ModelSize, place: Placement) -> int:
    """Return the weights of others that are here at the turn from forward to backward pass, under ZeRO-3.

    Gathering ahead goes on until ``max_live`` weights are here, and what it passes over because it is here already is
    kept. So is a weight that is needed again within ``reuse_distance``: there are twice as many between its forward and
    its backward use as come after it in the forward pass, three times as many if that is repeated.
    """
    if place.zero.stage < 3:
        return 0
    to_gather = sum(number for number in size.parameter_sizes if number > place.zero.persistence)
    kept = max(place.zero.max_live, place.zero.reuse_distance // (3 if place.gradient_checkpointing else 2))
    largest = max(size.parameter_sizes)
    # A gathered parameter arrives as one flat piece and is copied from there.
    return (
        min(to_gather, max(kept, largest)) + min(to_gather, max(largest, place.zero.prefetch))
    ) * place.element_bytes


def _passes(size: ModelSize, micro_batch: MicroBatchTrace, place: Placement) -> Memory:
    stage, several = place.zero.stage, place.num_micro_batches > 1
    kept = _gradients_kept(size, place)
    unpacked = size.largest_dequantized * place.element_bytes
    reducing = max(min(place.zero.reduce_bucket, size.num_trained), size.largest_trained) * place.element_bytes
    always = unpacked + _gathered(size, place) + (_reduce_buffers(size, place) if stage == 3 else 0)

    def moment(peak: Peak, gradients: int, buffers: int) -> Memory:
        return Memory(
            _weights(size, place),
            gradients + peak.gradients,
            _optimizer(size, place),
            peak.activations,
            peak.logits,
            always + buffers,
        )

    before, after = micro_batch.before_gradients, micro_batch.after_first_gradient
    if stage == 0 or stage == 1:
        # ZeRO-1 makes its bucket at the first gradient of a step and keeps it to the end.
        buckets = _reduce_buffers(size, place)
        if not several:
            return moment(micro_batch.gathering_gradients, 0, buckets)
        return moment(max(before, after, key=lambda peak: peak.total), kept, buckets)
    if stage == 2:
        # Each micro-batch has a partition of its own, which is then added to the first one.
        moments = [
            moment(before, kept if several else 0, 0),
            moment(after, kept * (2 if several else 1), _reduce_buffers(size, place) + reducing),
        ]
    else:
        moments = [moment(before, kept, 0), moment(after, kept, reducing)]
    return max(moments, key=lambda memory: memory.total)


def _reduction(size: ModelSize, place: Placement) -> Memory:
    """Return the moment after the last backward pass at which gradients are summed over the ranks."""
    kept, bucket = size.num_trained * place.element_bytes, _reduce_buffers(size, place)
    if place.zero.stage == 0:
        copied = min(size.num_trained, ALL_REDUCE_AT_ONCE + size.largest_trained)
        buffers = copied * place.element_bytes
    elif place.zero.stage == 1:
        in_bucket = min(place.zero.reduce_bucket, size.num_trained) * place.element_bytes
        # The bucket takes gradients in, is copied to be summed, and this rank's part is copied out.
        kept += _share(size, place) * place.element_bytes - in_bucket
        buffers = bucket + in_bucket
    else:
        kept, buffers = _gradients_kept(size, place), bucket if place.zero.stage == 3 else 0
    return Memory(_weights(size, place), kept, _optimizer(size, place), buffers=buffers)


def _step(size: ModelSize, place: Placement) -> Memory:
    if place.zero.offloads_optimizer:
        return Memory(_weights(size, place), buffers=_reduce_buffers(size, place) if place.zero.stage == 3 else 0)
    zero, width = place.zero, place.element_bytes
    share = _share(size, place)
    updated = min(share, zero.sub_group) if zero.stage == 3 else share  # weights in one go
    fp32_copy = FP32_BYTES * updated if width < FP32_BYTES else 0
    # AdamW itself needs nothing more: it updates in place, fused, or in 8 bits block by block.
    buffers = fp32_copy
    if zero.stage > 0:
        buffers += width * updated  # joined into one piece before they are made fp32
    if zero.stage == 3:
        buffers += _reduce_buffers(size, place)
    return Memory(_weights(size, place), width * share, _optimizer(size, place), buffers=buffers)


def _evaluation(size: ModelSize, decoding_bytes: int, place: Placement) -> Memory:
    """Return the moment of decoding: every weight is whole then, and gradients are gone, but for ZeRO-3's partition."""
    kept, buffers = 0, size.largest_dequantized * place.element_bytes
    if place.zero.stage == 3:
        kept, buffers = _gradients_kept(size, place), buffers + size.weight_bytes + _reduce_buffers(size, place)
    return Memory(_weights(size, place), kept, _optimizer(size, place), activations=decoding_bytes, buffers=buffers)
