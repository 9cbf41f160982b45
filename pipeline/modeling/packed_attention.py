"""Attention over packed rows: one line of tokens without padding, each row seeing itself alone.

In half precision on a GPU of compute capability 8.0 or more, PyTorch's flash attention computes it so. Anywhere else
its plain attention does, in any precision: rows are padded inside the attention alone, so everything else (matrices,
activations, norms) runs without padding.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig, PreTrainedModel
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pipeline.errors import UserError

HALF = (torch.bfloat16, torch.float16)  # what flash attention computes in
PACKED_SDPA = "packed_sdpa"
PACKING = (PACKED_SDPA, "flash_attention_2")
# Attention that sees a row's own tokens and nothing else; convolutions or states would run on into the next row.
ROW_WISE_LAYERS = {"full_attention", "sliding_attention"}


def can_pack(model: type[PreTrainedModel] | PreTrainedModel, config: PretrainedConfig) -> bool:
    """Return whether attention is all through which an architecture's tokens see each other, and can be replaced."""
    layer_types = getattr(config, "layer_types", None) or ()
    return (
        model.is_backend_compatible()
        and not getattr(model, "_is_stateful", False)
        and ROW_WISE_LAYERS.issuperset(layer_types)
    )


def packed_sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    padded_index: torch.Tensor | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute causal attention in each row by itself; without ``padded_index`` it is plain sdpa.

    Args:
        module: The attention layer.
        query: (1, heads, tokens, head_dim), rows one behind the other.
        key: (1, key_heads, tokens, head_dim).
        value: (1, key_heads, tokens, head_dim).
        attention_mask: Of plain sdpa.
        padded_index: (tokens,), where each token stands in the flattened (rows, longest row).
        cu_seq_lens_q: (rows + 1,), where the rows begin and end.
        max_length_q: Tokens of the longest row.
        **kwargs: sliding_window (how many tokens back a token sees); and what is passed on to sdpa: scaling, dropout.

    Returns:
        (1, tokens, heads, head_dim), and no attention weights.
    """
    _check_packed(module, cu_seq_lens_q, attention_mask, kwargs)
    sliding_window = kwargs.pop("sliding_window", None)
    if padded_index is None or cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if _has_flash(query, value, kwargs):
        return _flash(query, key, value, cu_seq_lens_q, max_length_q, sliding_window, **kwargs), None
    num_rows, longest = len(cu_seq_lens_q) - 1, max_length_q

    all_alike = len(padded_index) == num_rows * longest  # then there is nothing to pad

    def pad(packed: torch.Tensor) -> torch.Tensor:
        _, num_heads, _, head_dim = packed.shape
        if all_alike:
            return packed[0].unflatten(1, (num_rows, longest)).transpose(0, 1)
        padded = packed.new_zeros(num_rows * longest, num_heads, head_dim)
        padded = padded.index_copy(0, padded_index, packed[0].transpose(0, 1))
        return padded.view(num_rows, longest, num_heads, head_dim).transpose(1, 2)

    # Padding stands at the right, where causal attention never looks; a window needs a mask of its own.
    mask = None
    if sliding_window is not None and sliding_window < longest:
        ones = torch.ones(longest, longest, dtype=torch.bool, device=query.device)
        mask = ones.tril().triu(1 - sliding_window)[None, None]
    output, _ = sdpa_attention_forward(module, pad(query), pad(key), pad(value), mask, **kwargs)
    output = output.flatten(0, 1)
    return (output if all_alike else output.index_select(0, padded_index))[None], None


def _packed_flash_2(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    _check_packed(module, kwargs.get("cu_seq_lens_q"), attention_mask, kwargs)
    return flash_attention_forward(module, query, key, value, attention_mask, **kwargs)


_rows_are_packed = False


@contextmanager
def packed_rows() -> Iterator[None]:
    """Say that what goes through a model meanwhile is packed rows, and nothing else may be made of them."""
    global _rows_are_packed
    _rows_are_packed = True
    try:
        yield
    finally:
        _rows_are_packed = False


def _check_packed(
    module: torch.nn.Module,
    begins: torch.Tensor | None,
    mask: torch.Tensor | None,
    settings: Mapping[str, Any],
) -> None:
    """Refuse an architecture that loses on the way where rows begin or how far a token sees, or needs a mask.

    Raises:
        UserError: Naming the setting that does without.
    """
    if not _rows_are_packed:
        return
    config: Any = getattr(module, "config", None)
    window = getattr(config, "sliding_window", None)
    if begins is None:
        fault = "is not told where packed rows begin, so that a row would see the others"
    elif mask is not None:
        fault = "has a mask of its own over packed rows, so that a row would see the others"
    elif window and window < config.max_position_embeddings and "sliding_window" not in settings:
        fault = f"keeps its sliding_window ({window}) in a mask, and would see all of a longer row"
    else:
        return
    raise UserError(f"model.padding_free (true): {type(module).__name__} {fault}; set it to false.")


def _has_flash(query: torch.Tensor, value: torch.Tensor, settings: Mapping[str, Any]) -> bool:
    head_dim = query.shape[-1]
    return (
        query.is_cuda
        and query.dtype in HALF
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
        and head_dim == value.shape[-1]
        and head_dim % 8 == 0
        and head_dim <= 256
        and settings.get("softcap") is None
        and settings.get("position_bias") is None
    )


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_lens: torch.Tensor,
    longest: int,
    sliding_window: int | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> torch.Tensor:
    # torch.nn.attention.varlen offers this without dropout, which GPT-2 is trained with.
    output, *_rest = torch.ops.aten._flash_attention_forward(
        *(packed[0].transpose(0, 1) for packed in (query, key, value)),  # (tokens, heads, head_dim)
        cu_seq_lens,
        cu_seq_lens,
        longest,
        longest,
        dropout,
        True,  # causal
        False,  # no debug mask
        scale=scaling,
        window_size_left=-1 if sliding_window is None else sliding_window - 1,
        window_size_right=0,
    )
    return output[None]


def _mask(*args: Any, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor | None:
    # Packed rows come without a mask. Everything else (decoding) brings one.
    return None if attention_mask is None else sdpa_mask(*args, attention_mask=attention_mask, **kwargs)


AttentionInterface.register(PACKED_SDPA, packed_sdpa)
AttentionInterface.register("flash_attention_2", _packed_flash_2)
AttentionMaskInterface.register(PACKED_SDPA, _mask)
