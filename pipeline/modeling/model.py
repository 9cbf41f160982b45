"""Builds the recipe's model and tokenizer."""

import inspect
import logging
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from pipeline.config import LoraConfig, ModelConfig
from pipeline.errors import UserError, first_line, in_one_line
from pipeline.modeling.activation import fuse_gelu
from pipeline.modeling.attention import choose_attention, packs, padding_free
from pipeline.modeling.lora import (
    ADAPTER_CONFIG,
    add_adapters,
    keep_quantization_exact,
    quantization_config,
)
from pipeline.modeling.positions import allow_positions, positions_of
from pipeline.modeling.pretrained import (
    LOADING_ERRORS,
    load_pretrained,
    pretrained_tokenizer,
    this_device,
)
from pipeline.word_tokenizer import build_word_tokenizer

logger = logging.getLogger(__name__)

IGNORE_PADDING_MASK = ("rwkv",)


def build_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """Return the recipe's tokenizer.

    Raises:
        UserError: If it cannot be loaded.
    """
    if config.tokenizer == "words":
        return build_word_tokenizer()
    name = config.tokenizer or config.name_or_path
    field = "model.tokenizer" if config.tokenizer else "model.name_or_path"
    try:
        return pretrained_tokenizer(name, config.trust_remote_code)
    except LOADING_ERRORS as error:
        raise UserError(
            f"{field} ({name}): no tokenizer could be loaded ({first_line(error)}); check the name."
        ) from error


def build_model(
    config: ModelConfig,
    lora: LoraConfig,
    tokenizer: PreTrainedTokenizerBase,
    num_positions: int,
    end_id: int,
    dtype: torch.dtype,
    seed: int,
) -> PreTrainedModel:
    """Return the recipe's model, with weights, and with adapters on a frozen base where the recipe has a rank.

    Args:
        config: Which model.
        lora: Its adapters, if it has a rank.
        tokenizer: Gives a model from scratch its vocabulary and special tokens.
        num_positions: Positions that the longest row takes; the model must have as many.
        end_id: Token that ends a row.
        dtype: Type the weights are loaded in.
        seed: Seeds the weights of a model from scratch, and of adapters.

    Raises:
        UserError: If the model cannot be loaded, lacks weights, or is too small for vocabulary or rows.
    """
    model_config = build_model_config(config, tokenizer)
    check_size(model_config, tokenizer, num_positions)
    model_class = _model_class(model_config)
    kernel, why = choose_attention(config.attention, dtype, model_class)
    attention = padding_free(kernel, model_class, model_config) if config.padding_free else kernel
    without = "without" if config.padding_free and packs(attention, model_class, model_config) else "with"
    logger.info("attention: %s, %s padding (%s)", kernel, without, why)
    if config.from_scratch is None:
        model = _load(config, model_config, dtype, attention)
    else:
        torch.manual_seed(seed)
        try:
            model = AutoModelForCausalLM.from_config(model_config, dtype=dtype, attn_implementation=attention)
        except (*LOADING_ERRORS, ImportError) as error:
            raise UserError(
                f"model.from_scratch: the model cannot be built ({first_line(error)}); correct it."
            ) from error
    fuse_gelu(model)
    if lora.rank is not None:
        add_adapters(model, lora, seed)
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable()
    # Greedy, as evaluated: what a base model's own file says of sampling or penalties must not travel on.
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=end_id, pad_token_id=_pad_token_id(tokenizer)
    )
    return model


def _load(config: ModelConfig, model_config: PretrainedConfig, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    model = load_pretrained(
        config.name_or_path,
        "model.name_or_path",
        config=model_config,
        dtype=dtype,
        attn_implementation=attention,
        quantization_config=quantization_config(config.quantization, dtype),
        # Quantising happens where the weights shall stay; otherwise DeepSpeed moves them there.
        device_map=None if config.quantization == "none" else {"": this_device()},
        trust_remote_code=config.trust_remote_code,
    )
    if config.quantization != "none":
        keep_quantization_exact(model)
    return model


def build_model_config(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    """Return the Transformers configuration; one from scratch takes vocabulary and special tokens from the tokenizer.

    Raises:
        UserError: If the architecture or the model is not known.
    """
    if config.from_scratch is None:
        if (Path(config.name_or_path) / ADAPTER_CONFIG).is_file():
            raise UserError(
                f"model.name_or_path ({config.name_or_path}) holds adapters, not a model; merge them with "
                "`tacit export`, and name the folder it writes."
            )
        try:
            known = AutoConfig.from_pretrained(config.name_or_path, trust_remote_code=config.trust_remote_code)
        except LOADING_ERRORS as error:
            raise UserError(
                f"model.name_or_path ({config.name_or_path}): no model could be loaded ({first_line(error)}); "
                "check the name, or that the folder has a config.json."
            ) from error
        if getattr(known, "quantization_config", None) is not None:
            raise UserError(
                f"model.name_or_path ({config.name_or_path}) is stored quantised, and cannot be trained on; name the "
                "original, with model.quantization if the base shall be quantised."
            )
        _check_causal(known, f"model.name_or_path ({config.name_or_path})", "its config.json")
        allow_positions(known, config.num_positions)
        return known
    fields = dict(config.from_scratch)
    model_type = fields.pop("model_type")
    try:
        known = AutoConfig.for_model(model_type)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"model.from_scratch.model_type ({model_type}) is not known to Transformers; correct it."
        ) from error
    for name in fields:
        if not hasattr(known, name):
            raise UserError(f"model.from_scratch.{name}: {model_type} has no such setting; see its Transformers page.")
    special = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": _pad_token_id(tokenizer),
    }
    try:
        built = AutoConfig.for_model(model_type, **{**special, **fields})
    except (ValueError, TypeError, AttributeError, ArithmeticError, StrictDataclassError) as error:
        raise UserError(
            f"model.from_scratch: {model_type} refuses these settings ({in_one_line(error)}); correct them."
        ) from error
    _check_causal(built, "model.from_scratch", "it")
    return built


def _check_causal(config: PretrainedConfig, setting: str, place: str) -> None:
    """Refuse an encoder that was not told to look back only: it would see the tokens that it is to write."""
    is_encoder = config.model_type in {*MODEL_FOR_MASKED_LM_MAPPING_NAMES} - {
        *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    }
    if is_encoder and not getattr(config, "is_decoder", False):
        raise UserError(
            f"{setting}: {config.model_type} sees the tokens behind as well, and with them the answer; set is_decoder "
            f"true in {place}, or take a causal model."
        )


def _model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    return MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), PreTrainedModel)  # not listed: code that came with the model


def check_size(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, num_positions: int) -> None:
    """Refuse an architecture that is no causal language model, reads padding, or is too small for rows or vocabulary.

    Raises:
        UserError: Saying which.
    """
    comes_with_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    is_causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or comes_with_code
    if not is_causal or getattr(config, "is_encoder_decoder", False):
        raise UserError(f"model: {config.model_type} is not a causal language model; take one, such as gpt2 or llama.")
    if config.model_type in IGNORE_PADDING_MASK:
        raise UserError(
            f"model: {config.model_type} ignores the attention mask, so questions that are answered in one batch would "
            "be read with their padding; take another, such as gpt2 or llama."
        )
    has = positions_of(config)
    if num_positions > has:
        raise UserError(
            f"data: the longest row takes {num_positions} positions, the model has {has}; "
            "drop long rows with data.max_tokens, raise model.num_positions, or take a model with more positions."
        )
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"model.tokenizer has {len(tokenizer)} tokens, the model only {config.vocab_size}; take the model's own."
        )


def check_takes_positions(config: PretrainedConfig) -> None:
    """Refuse to keep positions in an architecture that is not told any, such as BLOOM or Mamba.

    Raises:
        UserError: If it is not.
    """
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)  # none for one that comes with its own code
    if model_class and "position_ids" not in inspect.signature(model_class.forward).parameters:
        raise UserError(
            f"removal.keep_positions (true): {config.model_type} takes no positions, so there is nothing to keep; set "
            "it to false."
        )


def _pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
