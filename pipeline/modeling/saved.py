"""Models that a run has saved: whole ones, and adapters on the base that they name."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.answer_spec import load_spec
from pipeline.errors import UserError, first_line
from pipeline.modeling.activation import fuse_gelu
from pipeline.modeling.lora import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    keep_quantization_exact,
    quantization_config,
)
from pipeline.modeling.positions import allow_positions
from pipeline.modeling.pretrained import LOADING_ERRORS, load_pretrained, pretrained_tokenizer, this_device

if TYPE_CHECKING:
    from peft import PeftModel


def load_for_inference(
    folder: Path, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a saved model and its tokenizer, on a GPU if there is one.

    Adapters are put on the base that they name, stored as it was in training.

    Raises:
        UserError: If the folder holds no model, or its base is not there.
    """
    if not has_adapters(folder) and not (folder / "config.json").is_file():
        raise UserError(f"{folder}: holds no model (no config.json); give a run's model/ folder.")
    settings: dict[str, Any] = {"trust_remote_code": trust_remote_code, "device_map": {"": this_device()}}
    if has_adapters(folder):
        spec = load_spec(folder)
        quantization = quantization_config(spec.base_quantization, spec.torch_dtype)
        model = load_adapted(folder, dtype=spec.torch_dtype, quantization_config=quantization, **settings)
        keep_quantization_exact(model)
    else:
        model = load_pretrained(str(folder), "model folder", **settings)
    fuse_gelu(model)  # as in training: rounding in bf16 differs
    return model.eval(), load_tokenizer(folder, trust_remote_code)


def has_adapters(folder: Path) -> bool:
    """Return whether a saved model is adapters, to be put on a base."""
    return (folder / ADAPTER_CONFIG).is_file()


def load_adapted(folder: Path, base: str | None = None, **settings: Any) -> "PeftModel":
    """Return the base of saved adapters with the adapters on it, every one of them in its place.

    Args:
        folder: Of the adapters.
        base: Where their base lies now; None goes by what they say.
        settings: For Transformers' ``from_pretrained``.

    Raises:
        UserError: If the base is not there, or is another model than they were trained on.
    """
    from peft import PeftModel, get_peft_model_state_dict

    try:
        weights = load_file(folder / ADAPTER_WEIGHTS)
        name = base or json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{folder}: the adapters cannot be read ({first_line(error)}); take another copy.") from error
    model = load_pretrained(name, f"{folder}: base of the adapters", **settings)
    allow_positions(model.config, load_spec(folder).num_positions)
    try:
        adapted = PeftModel.from_pretrained(model, str(folder), autocast_adapter_dtype=False)
        expected = {
            key: tensor.shape for key, tensor in get_peft_model_state_dict(adapted, save_embedding_layers=False).items()
        }
    except LOADING_ERRORS as error:
        raise UserError(f"{folder}: the adapters do not fit their base {name} ({first_line(error)}).") from error
    found = {key: tensor.shape for key, tensor in weights.items()}
    if expected != found:
        differing = sorted({*expected.items()} ^ {*found.items()})[0][0]
        raise UserError(f"{folder}: {name} is another model than the adapters were trained on ({differing}).")
    _cast_adapters(adapted, next(iter(weights.values())).dtype)
    return adapted


def _cast_adapters(model: "PeftModel", dtype: torch.dtype) -> None:
    """Give adapters the type that they were trained in: on a quantised base peft makes them fp32."""
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(dtype)


def load_tokenizer(folder: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Return a saved model's tokenizer.

    Raises:
        UserError: If it is not there.
    """
    try:
        return pretrained_tokenizer(str(folder), trust_remote_code)
    except LOADING_ERRORS as error:
        raise UserError(f"{folder}: no tokenizer could be loaded ({first_line(error)}); copy it there.") from error
