"""Loads weights that must be whole; what is wrong with them is said in one line."""

import os
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from pipeline.errors import UserError, first_line

# What names, folders and files raise that are not there, damaged, or do not fit together.
LOADING_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    SafetensorError,
    UnpicklingError,
)


def load_pretrained(name: str, field: str, **settings: Any) -> PreTrainedModel:
    """Return a model with every weight of its own.

    Args:
        name: Hub name or folder.
        field: What the user calls it, for messages.
        settings: For Transformers' ``from_pretrained``.

    Raises:
        UserError: If it cannot be loaded or lacks weights.
    """
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **settings)
    except (*LOADING_ERRORS, ImportError) as error:
        raise UserError(f"{field} ({name}): the model cannot be loaded ({first_line(error)}); check it.") from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise UserError(
            f"{field} ({name}) lacks {len(missing)} weights, such as {missing[0]}; give a complete checkpoint."
        )
    return model


def pretrained_tokenizer(name: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Return a tokenizer that has a vocabulary.

    Raises:
        Exception: One of ``LOADING_ERRORS``.
    """
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what Transformers makes of a folder without its files
        raise ValueError("its vocabulary is empty")
    return tokenizer


def this_device() -> str:
    """Return where this rank loads what DeepSpeed does not move: its GPU, or the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
