"""How a micro-batch goes into the model: padded, or packed in one line without padding. Everything on the CPU."""

from typing import Any

import torch
from torch.nn import functional

from pipeline.batching import IGNORE_INDEX, MicroBatch


def padded_inputs(micro_batch: MicroBatch) -> dict[str, Any]:
    """Return what the model is called with: rows padded on the right, and a mask. Logits are asked for at labels."""
    return {
        "input_ids": micro_batch.input_ids,
        "attention_mask": micro_batch.attention_mask,
        "position_ids": micro_batch.position_ids,
        "logits_to_keep": _predicts(micro_batch),
    }


def packed_inputs(micro_batch: MicroBatch) -> dict[str, Any]:
    """Return what the model is called with: all tokens in one row, and where the rows begin.

    ``cu_seq_lens`` and ``max_length`` are what flash attention asks for, ``padded_index`` what ``packed_sdpa`` does.
    They are always given: Transformers would guess borders from the position ids, and take a gap in them for one.
    """
    is_token = micro_batch.attention_mask.bool()
    ends = functional.pad(is_token.sum(-1).cumsum(0), (1, 0)).int()  # (rows + 1,)
    longest = is_token.shape[1]
    return {
        "input_ids": micro_batch.input_ids[is_token][None],  # (1, tokens)
        "position_ids": micro_batch.position_ids[is_token][None],
        "logits_to_keep": _predicts(micro_batch)[is_token].nonzero()[:, 0],
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": longest,
        "max_length_k": longest,
        "padded_index": is_token.flatten().nonzero()[:, 0],
    }


def targets(micro_batch: MicroBatch) -> torch.Tensor:
    """Return the label tokens, (num_labels,), row after row."""
    return micro_batch.labels[micro_batch.labels != IGNORE_INDEX]


def _predicts(micro_batch: MicroBatch) -> torch.Tensor:
    """Return where the token behind is a label, (batch, seq)."""
    return functional.pad(micro_batch.labels[:, 1:] != IGNORE_INDEX, (0, 1))
