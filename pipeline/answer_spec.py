"""What a saved model must be told to answer: how rows are written, and by how much positions shift."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from pipeline.config import FormatConfig
from pipeline.errors import UserError
from pipeline.removal import Side, Unit, position_shift

FILE_NAME = "tacit.json"


@dataclass(frozen=True)
class AnswerSpec:
    """Saved beside the weights as ``tacit.json``."""

    format: FormatConfig
    """How a row is written."""
    num_removed: int
    """CoT units scheduled to be removed when the model was saved."""
    removes_all: bool
    """Whether the model was trained to write no CoT at all."""
    side: Side
    unit: Unit
    keep_positions: bool
    """Whether position ids shift from the first separator on. False also where the shift is built into the weights."""
    longest_cot: int
    """Tokens in the longest training CoT."""
    right_first: int = 0
    """Of the removed tokens, the first so many went from the right."""
    question_length: int | None = None
    """Tokens that every question must have, where a shift is built in."""
    built_in_shift: int = 0
    """Positions cut out of the model's own table, so that it answers at ``num_removed`` without a shift."""
    base_quantization: str = "none"
    """How the base under adapters was stored in training (``model.quantization``)."""
    num_positions: int | None = None
    """Positions that training raised the model's limit to (``model.num_positions``); None left it alone."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that the model was trained in."""
    step: int | None = None
    """Of the model that a run has chosen: the step it was saved at."""
    validation_accuracy: float | None = None
    """Of the same: what it was chosen by."""

    @property
    def shift(self) -> int:
        """By how much position ids shift from the first separator on when answering; no smoothing here."""
        if not self.keep_positions:
            return 0
        return position_shift(self.num_removed, self.longest_cot, self.removes_all, self.right_first)

    @property
    def torch_dtype(self) -> torch.dtype:
        """``dtype`` as PyTorch's."""
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.dtype]

    def at(self, num_removed: int | None) -> "AnswerSpec":
        """Return the same model's spec for another number of removed units; None changes nothing.

        Raises:
            UserError: If the model can be asked at its own number only.
        """
        if num_removed is None or num_removed == self.num_removed:
            return self
        if self.built_in_shift:
            raise UserError(
                f"--num_removed ({num_removed}): the model's positions are built in for {self.num_removed} removed; "
                "leave the option out, or take the model of another stage."
            )
        removes_all = num_removed >= self.longest_cot or (self.removes_all and num_removed >= self.num_removed)
        return dataclasses.replace(self, num_removed=num_removed, removes_all=removes_all)

    def save(self, folder: Path) -> None:
        """Write ``tacit.json`` into a model's folder."""
        (folder / FILE_NAME).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")


def load_spec(folder: Path) -> AnswerSpec:
    """Read the ``tacit.json`` of a saved model.

    Raises:
        UserError: If it is not there or not readable.
    """
    path = folder / FILE_NAME
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return AnswerSpec(**{**fields, "format": FormatConfig(**fields["format"])})
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); give a model folder that a run of tacit wrote."
        ) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path}: not what tacit writes ({error}); give a model folder that a run of tacit wrote."
        ) from error
