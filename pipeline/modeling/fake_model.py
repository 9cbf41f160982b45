"""A recipe's model as fake tensors: every shape and type, no weights, no memory."""

import math
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.pytorch_utils import Conv1D

from pipeline.config import LoraConfig, ModelConfig
from pipeline.errors import UserError, in_one_line
from pipeline.model_size import ModelSize
from pipeline.modeling.activation import fuse_gelu
from pipeline.modeling.attention import padding_free
from pipeline.modeling.lora import add_adapters

# Bytes of a weight that bitsandbytes stores: NF4 in blocks of 64, their scales in 8 bits, in blocks of 256 again
# (arXiv:2305.14314, section 3); 8 bits with one fp32 scale a row, which is too little to count.
STORED_BYTES = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}

NO_DROPOUT = ("attn_pdrop", "attention_dropout")


@dataclass(frozen=True)
class FakeModel:
    """A model without memory, in training mode."""

    module: PreTrainedModel
    mode: FakeTensorMode
    size: ModelSize


def build_fake_model(
    model_config: PretrainedConfig, settings: ModelConfig, lora: LoraConfig, dtype: torch.dtype
) -> FakeModel:
    """Return a recipe's model as fake tensors, adapters and gradient checkpointing included.

    Args:
        model_config: The architecture.
        settings: Attention, checkpointing and quantisation. A quantised base has its plain shape here.
        lora: Adapters, if it has a rank.
        dtype: Type the model computes in.

    Raises:
        UserError: If the architecture is not a causal language model, or cannot be built as the recipe asks.
    """
    if type(model_config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not settings.trust_remote_code:
        raise UserError(f"model: {model_config.model_type} is not a causal language model; take one, such as gpt2.")
    # flash_attention_2 needs its package to be built, and keeps the same tensors as sdpa's fused kernel.
    wanted = "eager" if settings.attention == "eager" else "sdpa"
    # A GPU's fused kernels draw attention's dropout as they go; the CPU's, which fake tensors ask for, cannot.
    model_config = model_config.__class__.from_dict({**model_config.to_dict(), **dict.fromkeys(NO_DROPOUT, 0.0)})
    with torch.device("meta"):  # peft moves weights about, which fake ones do not allow
        model = _from_config(model_config, settings, wanted, dtype)
        fuse_gelu(model)
        quantized = _quantized_weights(model) if settings.quantization != "none" else {}
        if lora.rank is not None:
            add_adapters(model, lora, seed=0)
            model.to(dtype)
        if settings.gradient_checkpointing:
            model.activation_checkpointing_enable()
    size = _size(model, quantized, STORED_BYTES.get(settings.quantization, 0.0))
    mode = FakeTensorMode()
    _make_fake(model, mode)
    model.train()
    return FakeModel(model, mode, size)


def _from_config(
    model_config: PretrainedConfig, settings: ModelConfig, attention: str, dtype: torch.dtype
) -> PreTrainedModel:
    known = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(model_config), None)
    if known is not None and settings.padding_free:
        attention = padding_free(attention, known, model_config)
    try:
        return AutoModelForCausalLM.from_config(
            model_config, dtype=dtype, attn_implementation=attention, trust_remote_code=settings.trust_remote_code
        )
    except (ValueError, LookupError, TypeError, ArithmeticError, RuntimeError) as error:
        if attention == "sdpa":  # the architecture lacks it
            return _from_config(model_config, settings, "eager", dtype)
        raise UserError(
            f"model: {model_config.model_type} cannot be built ({in_one_line(error)}); correct it."
        ) from error


def _make_fake(model: PreTrainedModel, mode: FakeTensorMode) -> None:
    """Turn weights and buffers that are on no device into fake ones on the CPU; shared ones stay shared."""
    fakes: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in fakes:
            copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
            is_weight = isinstance(tensor, torch.nn.Parameter)
            fakes[id(tensor)] = torch.nn.Parameter(copy, tensor.requires_grad) if is_weight else copy
        return fakes[id(tensor)]

    with mode:
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = fake(tensor)


def with_positions(model_config: PretrainedConfig, num_positions: int) -> PretrainedConfig:
    """Return the configuration with more positions, whether they are computed or stand in a table."""
    longer = model_config.__class__.from_dict(model_config.to_dict())
    longer.max_position_embeddings = num_positions  # GPT-2's own name for it is an alias
    return longer


def with_layers(model_config: PretrainedConfig, num_layers: int) -> PretrainedConfig:
    """Return the configuration with the first ``num_layers`` layers alone."""
    shorter = model_config.__class__.from_dict(model_config.to_dict())
    shorter.num_hidden_layers = num_layers  # GPT-2's own name for it is an alias
    if getattr(shorter, "layer_types", None):
        shorter.layer_types = shorter.layer_types[:num_layers]
    return shorter


def _quantized_weights(model: PreTrainedModel) -> dict[int, int]:
    """Return the weights that bitsandbytes stores in fewer bits, by identity: of all linear layers but the head."""
    head = model.get_output_embeddings()
    return {
        id(module.weight): module.weight.numel()
        for module in model.modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
    }


def _size(model: PreTrainedModel, quantized: dict[int, int], stored_bytes: float) -> ModelSize:
    parameters = list(model.parameters())
    trained = [parameter.numel() for parameter in parameters if parameter.requires_grad]
    head = model.get_output_embeddings().weight
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    matrices = [p for p in parameters if p.dim() >= 2 and id(p) not in embeddings and p is not head]
    config = model.config.get_text_config()
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    plain_bytes = sum(p.numel() * p.element_size() for p in parameters if id(p) not in quantized)
    return ModelSize(
        num_weights=sum(parameter.numel() for parameter in parameters),
        num_trained=sum(trained),
        weight_bytes=plain_bytes + math.ceil(sum(quantized.values()) * stored_bytes),
        parameter_sizes=tuple(parameter.numel() for parameter in parameters),
        largest_trained=max(trained, default=0),
        largest_dequantized=max(quantized.values(), default=0),
        matrix_trained=sum(p.numel() for p in matrices if p.requires_grad),
        matrix_frozen=sum(p.numel() for p in matrices if not p.requires_grad),
        head_weights=head.numel(),
        head_trained=head.requires_grad,
        num_layers=config.num_hidden_layers,
        attention_width=config.num_attention_heads * head_width,
        hidden_size=config.hidden_size,
        vocabulary_size=head.shape[0],
    )
