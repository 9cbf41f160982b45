"""The training loss, with logits only where a label is."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from pipeline.batching import IGNORE_INDEX, MicroBatch


def token_loss_sum(
    model: Callable[..., Any], micro_batch: MicroBatch, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed cross-entropy of a micro-batch's label tokens, and how many argmaxes are right.

    Logits are computed only at positions that predict a label. A micro-batch without labels gives 0, and takes part in
    the backward pass with zero gradients.
    """
    labels = micro_batch.labels[:, 1:].to(device)
    predicts = torch.zeros_like(micro_batch.labels, dtype=torch.bool, device=device)  # (batch, seq)
    predicts[:, :-1] = labels != IGNORE_INDEX
    logits = model(
        input_ids=micro_batch.input_ids.to(device),
        attention_mask=micro_batch.attention_mask.to(device),
        position_ids=micro_batch.position_ids.to(device),
        logits_to_keep=predicts,
        use_cache=False,
    ).logits  # (num_labels, vocab)
    targets = labels[labels != IGNORE_INDEX]
    logits = logits.reshape(-1, logits.shape[-1]).float()
    loss_sum = functional.cross_entropy(logits, targets, reduction="sum") if len(targets) else logits.sum()
    return loss_sum, (logits.argmax(-1) == targets).sum()
