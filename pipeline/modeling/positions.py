"""More positions than a model was trained with.

A model with rotary positions needs its limit raised and no more, unless it scales them by the limit. One with a learned
table gets a longer table, which repeats its own rows, as Longformer's begins (arXiv:2004.05150, section 5). The longer
model is written to a folder, so that every rank, adapters and a resumed run find it there.
"""

import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer, PretrainedConfig

from pipeline.errors import UserError
from pipeline.manifest import incomplete, put_in_place
from pipeline.modeling.pretrained import load_pretrained

# Architectures whose learned table we know: the table's name, and the setting that states its length.
LEARNED_TABLES = {"gpt2": ("transformer.wpe", "n_positions")}


# Scalings of rotary positions that do not depend on the limit.
FREE_SCALINGS = ("default", "linear", "llama3", "yarn")


def positions_of(config: PretrainedConfig) -> int:
    """Return how many positions a model has.

    Raises:
        UserError: If it does not say so.
    """
    number = getattr(config, "max_position_embeddings", None)
    if number is None:
        raise UserError(f"model: {config.model_type} does not state how many positions it has; take another model.")
    return int(number)


def has_rotary_positions(config: PretrainedConfig) -> bool:
    """Return whether positions are computed, so that there is no table to extend."""
    return getattr(config, "rope_parameters", None) is not None


def allow_positions(config: PretrainedConfig, num_positions: int | None) -> None:
    """Raise a rotary model's limit in place; one that is high enough, or no number, changes nothing.

    Raises:
        UserError: If the model computes its positions from the limit itself.
    """
    if num_positions is None or not has_rotary_positions(config) or num_positions <= config.max_position_embeddings:
        return
    scaling = config.rope_parameters.get("rope_type")
    if scaling not in FREE_SCALINGS:
        raise UserError(
            f"model.num_positions ({num_positions}): {config.model_type} scales its positions by the limit "
            f"({scaling}), which another limit would change; drop long rows with data.max_tokens."
        )
    config.max_position_embeddings = num_positions


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


def write_extended(name_or_path: str, num_positions: int, folder: Path, trust_remote_code: bool = False) -> None:
    """Write a copy of a model, and its tokenizer, whose learned position table has ``num_positions`` rows.

    Args:
        name_or_path: The model; its architecture is one of ``LEARNED_TABLES``.
        num_positions: More than it has.
        folder: Replaced as a whole.
        trust_remote_code: Run Python code that comes with the model.

    Raises:
        UserError: If the model cannot be loaded or lacks weights.
    """
    model = load_pretrained(name_or_path, "model.name_or_path", trust_remote_code=trust_remote_code)
    path, setting = LEARNED_TABLES[model.config.model_type]
    table = model.get_submodule(path)
    repeats = -(-num_positions // len(table.weight))
    longer = table.weight.detach().repeat(repeats, 1)[:num_positions]  # (num_positions, hidden)
    table.weight = torch.nn.Parameter(longer)
    setattr(model.config, setting, num_positions)
    temporary = incomplete(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=trust_remote_code).save_pretrained(temporary)
    put_in_place(folder)
