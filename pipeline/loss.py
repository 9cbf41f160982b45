"""The training loss, with logits only where a label is."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from pipeline.batching import MicroBatch
from pipeline.modeling.packed_attention import packed_rows
from pipeline.packing import packed_inputs, padded_inputs, targets

# Logits turned into fp32 at once: few enough for a CPU's cache; on a GPU enough that the launches cost little.
CPU_CHUNK, GPU_CHUNK = 2**22, 2**25


def token_loss_sum(
    model: Callable[..., Any], micro_batch: MicroBatch, device: torch.device, *, packed: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed cross-entropy of a micro-batch's label tokens, and how many argmaxes are right.

    Logits are computed only at positions that predict a label. A micro-batch without labels gives 0, and takes part in
    the backward pass with zero gradients.

    Args:
        model: What is called with the inputs.
        micro_batch: Right-padded rows.
        device: Where the model computes.
        packed: Whether the rows go in without their padding; the model's attention must know how to.
    """
    inputs = packed_inputs(micro_batch) if packed else padded_inputs(micro_batch)
    on_device = {name: value.to(device) if torch.is_tensor(value) else value for name, value in inputs.items()}
    with packed_rows() if packed else nullcontext():
        logits = model(**on_device, use_cache=False).logits
    chunk = CPU_CHUNK if device.type == "cpu" else GPU_CHUNK
    return summed_cross_entropy(logits.reshape(-1, logits.shape[-1]), targets(micro_batch).to(device), chunk)


def summed_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, chunk_numel: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of -log p(label) in fp32, and how many argmaxes are the label.

    Logits are turned into log-probabilities a chunk at a time, and their gradient is written over them: with a large
    vocabulary they are the largest tensor of a step, and this holds one of it where cross_entropy holds three.

    Args:
        logits: (num_labels, vocab); used up by the backward pass.
        labels: (num_labels,).
        chunk_numel: Logits turned at once, at least those of one label.
    """
    loss_sum, num_correct = _SummedCrossEntropy.apply(logits, labels, max(1, chunk_numel // logits.shape[-1]))
    return loss_sum, num_correct


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, labels: torch.Tensor, chunk_rows: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        normalizers = logits.new_empty(len(logits), dtype=torch.float32)
        num_correct = torch.zeros((), dtype=torch.long, device=logits.device)
        for begin, chunk in _chunks(logits, chunk_rows):
            normalizers[begin : begin + len(chunk)] = chunk.float().logsumexp(-1)
            num_correct += (chunk.argmax(-1) == labels[begin : begin + len(chunk)]).sum()
        picked = logits.gather(-1, labels[:, None])[:, 0].float()
        ctx.save_for_backward(logits, labels, normalizers)
        ctx.chunk_rows = chunk_rows
        ctx.mark_non_differentiable(num_correct)
        return (normalizers - picked).sum(), num_correct

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        logits, labels, normalizers = ctx.saved_tensors
        for begin, chunk in _chunks(logits, ctx.chunk_rows):
            rows = slice(begin, begin + len(chunk))
            gradient = (chunk.float() - normalizers[rows, None]).exp_()
            gradient.scatter_add_(-1, labels[rows, None], gradient.new_full((len(chunk), 1), -1.0))
            chunk.copy_(gradient.mul_(grad_loss))
        return logits, None, None


def _chunks(logits: torch.Tensor, num_rows: int) -> list[tuple[int, torch.Tensor]]:
    return [(begin, logits[begin : begin + num_rows]) for begin in range(0, len(logits), num_rows)]
