"""Low-rank adapters, and the frozen base they stand on.

peft and bitsandbytes take seconds to import: what has no adapters does without.

Source: arXiv:2106.09685 (LoRA), arXiv:2305.14314 (QLoRA).
"""

import warnings
from pathlib import Path

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from pipeline.config import LoraConfig
from pipeline.errors import UserError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def quantization_config(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Return how bitsandbytes stores the base: 8 bits, or QLoRA's NF4 with double quantisation; None as it is.

    Args:
        quantization: ``none``, ``int8`` or ``nf4``.
        dtype: Type that the base is computed in.
    """
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if quantization == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return None


def keep_quantization_exact(model: PreTrainedModel) -> None:
    """Stop bitsandbytes from repacking 4-bit weights when a CPU first infers with them.

    The repacked weights are rounded once more, so that training would go on from others than it began with.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def add_adapters(model: PreTrainedModel, config: LoraConfig, seed: int) -> None:
    """Freeze a model and put adapters into it; they begin as the identity.

    Args:
        model: Changed in place; what it computes stays the same until the adapters are trained.
        config: With a rank.
        seed: Of the adapters' random half.

    Raises:
        UserError: If the model has no such layers.
    """
    assert config.rank is not None
    missing = [name for name in config.modules_to_save if not _has_module(model, name)]
    if missing:
        raise UserError(f"lora.modules_to_save ({missing}): the model has no such modules; correct the names.")
    from peft import LoraConfig as PeftLoraConfig

    peft_config = PeftLoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.targets or "all-linear",
        modules_to_save=config.modules_to_save or None,
    )
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            # GPT-2 stores its layers transposed; peft sets itself right, and says so for each of them.
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
            model.add_adapter(peft_config)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split(". ")[0].split())[:200]
        raise UserError(
            f"lora.targets ({config.targets}), lora.modules_to_save ({config.modules_to_save}): {reason}; name the "
            "model's own linear layers, and modules that are not quantised."
        ) from error
    if model.config.tie_word_embeddings:
        _check_tied(model)
    # The saved adapters name their base; a folder must be found from wherever they are loaded.
    if Path(model.name_or_path).is_dir():
        peft_config.base_model_name_or_path = str(Path(model.name_or_path).resolve())


def _check_tied(model: PreTrainedModel) -> None:
    """Refuse to change one side of a tie: merged or saved, the change would reach the other side as well."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for side in (model.get_input_embeddings(), model.get_output_embeddings()):
        if isinstance(side, BaseTunerLayer | AuxiliaryTrainingWrapper):
            raise UserError(
                f"lora.targets, lora.modules_to_save: {model.config.model_type} ties its output head to its embedding, "
                "so neither can have adapters or be trained by itself; leave both out."
            )


def _has_module(model: PreTrainedModel, name: str) -> bool:
    return any(path == name or path.endswith(f".{name}") for path, _ in model.named_modules())
