"""Which attention kernel a model computes with."""

import importlib.util

import torch
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.modeling.packed_attention import HALF, PACKED_SDPA, PACKING, can_pack


def choose_attention(wanted: str, dtype: torch.dtype, model_class: type[PreTrainedModel]) -> tuple[str, str]:
    """Return the attention kernel and why: flash_attention_2 where all allow it, else sdpa, else eager.

    Args:
        wanted: ``auto``, or the one kernel that the recipe asks for.
        dtype: Type the model computes in.
        model_class: The architecture, which says what it can use.
    """
    if wanted != "auto":
        return wanted, "the recipe asks for it"
    against_flash = {
        "no GPU": not torch.cuda.is_available(),
        "package flash-attn is not installed": importlib.util.find_spec("flash_attn") is None,
        f"precision {dtype}".replace("torch.", ""): dtype not in HALF,
        "the architecture lacks it": not getattr(model_class, "_supports_flash_attn", False),
    }
    reasons = [reason for reason, holds in against_flash.items() if holds]
    if not reasons:
        return "flash_attention_2", "GPU, package, precision and architecture allow it"
    why_not = f"no flash_attention_2: {', '.join(reasons)}"
    if getattr(model_class, "_supports_sdpa", False):
        return "sdpa", why_not
    return "eager", f"{why_not}; no sdpa: the architecture lacks it"


def padding_free(kernel: str, model_class: type[PreTrainedModel], config: PretrainedConfig) -> str:
    """Return the attention by which a kernel takes rows without padding; the kernel itself where none does."""
    return PACKED_SDPA if kernel == "sdpa" and can_pack(model_class, config) else kernel


def packs(attention: str, model_class: type[PreTrainedModel], config: PretrainedConfig) -> bool:
    """Return whether a model that was built with an attention takes packed rows."""
    return attention in PACKING and can_pack(model_class, config)
