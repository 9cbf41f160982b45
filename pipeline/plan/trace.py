"""What one micro-batch keeps in memory beyond weights and gradients, found by running it on fake tensors."""

from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.loss import GPU_CHUNK, summed_cross_entropy
from pipeline.modeling.attention import packs
from pipeline.modeling.fake_model import FakeModel
from pipeline.plan.live_bytes import LiveBytes
from pipeline.plan.peaks import DecodingTrace, MicroBatchTrace, Peak, larger

ACTIVATIONS, LOGITS = "activations", "logits"


def trace_micro_batch(
    model: FakeModel, num_rows: int, row_length: int, num_labels: int, loss_chunk: int = GPU_CHUNK
) -> MicroBatchTrace:
    """Run a training micro-batch on fake tensors, with the loss of ``token_loss_sum``.

    Args:
        model: In training mode.
        num_rows: Rows, all of the same length.
        row_length: Tokens in each.
        num_labels: Labels at the end of each, at least 1.
        loss_chunk: Logits that the loss turns at once, as ``summed_cross_entropy`` takes it.
    """
    num_trained = sum(parameter.requires_grad for parameter in model.module.parameters())
    num_logits = num_rows * num_labels * model.size.vocabulary_size
    recorder = _Recorder(num_logits, num_trained, num_trained // model.size.num_layers)
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
        with live:
            _loss(module, inputs, targets, loss_chunk).backward()
        for hook in hooks:
            hook.remove()
    return MicroBatchTrace(recorder.before, *recorder.after, *recorder.gathering)


def _loss(model: torch.nn.Module, inputs: dict[str, Any], targets: torch.Tensor, chunk: int) -> torch.Tensor:
    """Do as ``token_loss_sum`` does, and let go of the logits where it does."""
    logits = model(**inputs, use_cache=False).logits
    return summed_cross_entropy(logits.reshape(-1, logits.shape[-1]), targets, chunk)[0]


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

    def __init__(self, logits_numel: int, num_trained: int = 0, trained_per_layer: int = 0) -> None:
        self._logits_numel = logits_numel
        self._num_left, self._per_layer = num_trained, trained_per_layer
        self._num_done = 0
        self._gradients = 0
        self.before = Peak()
        self.after, self.gathering = [Peak(), Peak()], [Peak(), Peak()]  # at the top and at the bottom

    def kind_of(self, tensor: torch.Tensor) -> str:
        return LOGITS if tensor.numel() == self._logits_numel else ACTIVATIONS

    def take_gradient(self, live: LiveBytes, weight: torch.Tensor) -> None:
        """Count a complete gradient as such, and free it: what becomes of it is the ZeRO stage's business."""
        assert weight.grad is not None
        self._gradients += live.release(weight.grad)
        weight.grad = None
        self._num_done, self._num_left = self._num_done + 1, self._num_left - 1

    def record(self, live: dict[str, int]) -> None:
        now = Peak(live.get(ACTIVATIONS, 0), live.get(LOGITS, 0))
        if self._gradients == 0:
            self.before = larger(self.before, now)
        for end, is_there in enumerate((self._num_done <= self._per_layer, self._num_left <= self._per_layer)):
            if is_there:
                with_gradients = Peak(now.activations, now.logits, self._gradients)
                self.gathering[end] = larger(self.gathering[end], with_gradients)
                if self._gradients:
                    self.after[end] = larger(self.after[end], now)
