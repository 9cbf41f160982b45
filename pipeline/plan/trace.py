"""What one micro-batch keeps in memory beyond weights and gradients, found by running it on fake tensors."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from pipeline.loss import summed_cross_entropy
from pipeline.modeling.attention import packs
from pipeline.modeling.fake_model import FakeModel
from pipeline.plan.live_bytes import LiveBytes

ACTIVATIONS, LOGITS = "activations", "logits"


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
    after_first_gradient: Peak
    """From then on; a gradient counts as an activation until it is complete, and not at all after that."""
    gathering_gradients: Peak
    """Of the whole, with the gradients that are complete: for a step of one micro-batch, which begins without any."""


def between(few: MicroBatchTrace, many: MicroBatchTrace, share: float) -> MicroBatchTrace:
    """Estimate the trace of a micro-batch from one with fewer rows and one with more.

    Each moment's bytes grow in proportion to the rows, and the worst moment is the largest of these, so a point between
    the two lies under their chord: the estimate may be too high, not too low. Beyond ``many`` it is the other way.

    Args:
        few: Of the smaller micro-batch.
        many: Of the larger one.
        share: 0 at ``few``, 1 at ``many``.
    """

    def blend(low: Peak, high: Peak) -> Peak:
        numbers = [
            round(getattr(low, part) + share * (getattr(high, part) - getattr(low, part)))
            for part in ("activations", "logits", "gradients")
        ]
        return Peak(*(max(number, 0) for number in numbers))

    return MicroBatchTrace(
        blend(few.before_gradients, many.before_gradients),
        blend(few.after_first_gradient, many.after_first_gradient),
        blend(few.gathering_gradients, many.gathering_gradients),
    )


@dataclass(frozen=True, slots=True)
class DecodingTrace:
    """The first forward pass of a decoding, over prompts."""

    peak: int
    """Bytes at the worst moment, cache included."""
    cache: int
    """Bytes of keys and values that stay."""


class _NoAttentionDropout(TorchFunctionMode):
    """The fused kernels of a GPU draw dropout as they go; the CPU's, which fake tensors ask for, cannot."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            kwargs = {**kwargs, "dropout_p": 0.0}
        return func(*args, **kwargs)


def trace_micro_batch(model: FakeModel, num_rows: int, row_length: int, num_labels: int) -> MicroBatchTrace:
    """Run a training micro-batch on fake tensors, with the loss of ``token_loss_sum``.

    Args:
        model: In training mode.
        num_rows: Rows, all of the same length.
        row_length: Tokens in each.
        num_labels: Labels at the end of each, at least 1.
    """
    recorder = _Recorder(num_rows * num_labels * model.size.vocabulary_size)
    with model.mode:
        module = model.module
        inputs = _training_inputs(module, num_rows, row_length, num_labels)
        targets = torch.zeros(num_rows * num_labels, dtype=torch.long)
        live = LiveBytes(recorder.kind_of, [*module.parameters(), *module.buffers()], recorder.record)
        hooks = [
            parameter.register_post_accumulate_grad_hook(lambda weight: recorder.take_gradient(live, weight))
            for parameter in module.parameters()
            if parameter.requires_grad
        ]
        with live, _NoAttentionDropout():
            _loss(module, inputs, targets).backward()
        for hook in hooks:
            hook.remove()
    return MicroBatchTrace(recorder.before, recorder.after, recorder.gathering)


def _loss(model: torch.nn.Module, inputs: dict[str, Any], targets: torch.Tensor) -> torch.Tensor:
    """Do as ``token_loss_sum`` does, and let go of the logits where it does."""
    logits = model(**inputs, use_cache=False).logits
    return summed_cross_entropy(logits.reshape(-1, logits.shape[-1]), targets)[0]


def _training_inputs(model: PreTrainedModel, num_rows: int, row_length: int, num_labels: int) -> dict[str, Any]:
    """Return inputs of the sizes that training's have; positions of labels, since a fake mask has no values."""
    inputs: dict[str, Any] = _inputs(num_rows, row_length)
    positions = torch.arange(row_length - num_labels, row_length) - 1
    if not packs(model.config._attn_implementation, type(model), model.config):
        return {**inputs, "logits_to_keep": positions}
    # One token less than the rows could hold: where none is short, attention pads nothing, and holds less.
    num_tokens = num_rows * row_length - 1
    ends = (row_length * torch.arange(num_rows + 1)).clamp(max=num_tokens)
    return {
        "input_ids": inputs["input_ids"].view(1, -1)[:, :num_tokens],
        "position_ids": inputs["position_ids"].view(1, -1)[:, :num_tokens],
        "logits_to_keep": (row_length * torch.arange(num_rows)[:, None] + positions).flatten() - 1,
        "cu_seq_lens_q": ends,
        "max_length_q": row_length,
        "padded_index": torch.arange(num_tokens),
    }


def trace_decoding(model: FakeModel, num_rows: int, prompt_length: int) -> DecodingTrace:
    """Run the first forward pass of a decoding on fake tensors.

    Args:
        model: Set to evaluation mode meanwhile.
        num_rows: Prompts decoded together.
        prompt_length: Tokens in each.
    """
    recorder = _Recorder(num_rows * model.size.vocabulary_size)
    module = model.module
    with model.mode, torch.no_grad():
        inputs = _inputs(num_rows, prompt_length)
        live = LiveBytes(recorder.kind_of, [*module.parameters(), *module.buffers()], recorder.record)
        module.eval()
        with live:
            output = module(**inputs, logits_to_keep=1, use_cache=True)
            del output.logits
            cache = sum(live.live.values())
        module.train()
    return DecodingTrace(recorder.before.total, cache)


def _inputs(num_rows: int, length: int) -> dict[str, torch.Tensor]:
    position_ids = torch.arange(length).repeat(num_rows, 1)
    return {
        "input_ids": torch.zeros_like(position_ids),
        "attention_mask": torch.ones_like(position_ids),
        "position_ids": position_ids,
    }


class _Recorder:
    """Keeps the worst moments of a pass."""

    def __init__(self, logits_numel: int) -> None:
        self._logits_numel = logits_numel
        self._gradients = 0
        self.before = self.after = self.gathering = Peak()

    def kind_of(self, tensor: torch.Tensor) -> str:
        return LOGITS if tensor.numel() == self._logits_numel else ACTIVATIONS

    def take_gradient(self, live: LiveBytes, weight: torch.Tensor) -> None:
        """Count a complete gradient as such, and free it: what becomes of it is the ZeRO stage's business."""
        assert weight.grad is not None
        self._gradients += live.release(weight.grad)
        weight.grad = None

    def record(self, live: dict[str, int]) -> None:
        now = Peak(live.get(ACTIVATIONS, 0), live.get(LOGITS, 0))
        if self._gradients == 0:
            self.before = max(self.before, now, key=lambda peak: peak.total)
        else:
            self.after = max(self.after, now, key=lambda peak: peak.total)
        gathering = Peak(now.activations, now.logits, self._gradients)
        self.gathering = max(self.gathering, gathering, key=lambda peak: peak.total)
