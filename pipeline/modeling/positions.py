"""More positions than a model was trained with.

A model with rotary positions needs its limit raised and no more. One with a learned table gets a longer table, which
repeats its own rows, as Longformer's begins (arXiv:2004.05150, section 5). The longer model is written to a folder
once, so that every rank, adapters and a resumed run find it there.
"""

import os
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from pipeline.errors import UserError

# Architectures whose learned table we know: the table's name, and the setting that states its length.
LEARNED_TABLES = {"gpt2": ("transformer.wpe", "n_positions")}


def has_rotary_positions(config: PretrainedConfig) -> bool:
    """Return whether positions are computed, so that there is no table to extend."""
    return getattr(config, "rope_parameters", None) is not None


def lacks_positions(config: PretrainedConfig, num_positions: int | None) -> bool:
    """Return whether a model's learned position table must be extended to have ``num_positions`` rows.

    Raises:
        UserError: If it must, and the architecture's table is not known.
    """
    if num_positions is None or has_rotary_positions(config) or num_positions <= config.max_position_embeddings:
        return False
    if config.model_type not in LEARNED_TABLES:
        raise UserError(
            f"model.num_positions ({num_positions}): the positions of {config.model_type} cannot be extended; drop "
            "long rows with data.max_tokens, or take a model with more positions."
        )
    return True


def write_extended(name_or_path: str, num_positions: int, folder: Path) -> None:
    """Write a copy of a model, and its tokenizer, whose learned position table has ``num_positions`` rows.

    Args:
        name_or_path: The model; its architecture is one of ``LEARNED_TABLES``.
        num_positions: More than it has.
        folder: Replaced as a whole.
    """
    model = AutoModelForCausalLM.from_pretrained(name_or_path)
    path, setting = LEARNED_TABLES[model.config.model_type]
    table = model.get_submodule(path)
    repeats = -(-num_positions // len(table.weight))
    longer = table.weight.detach().repeat(repeats, 1)[:num_positions]  # (num_positions, hidden)
    table.weight = torch.nn.Parameter(longer)
    setattr(model.config, setting, num_positions)
    temporary = folder.with_name(f".{folder.name}.incomplete")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    AutoTokenizer.from_pretrained(name_or_path).save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
