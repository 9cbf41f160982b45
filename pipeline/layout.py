"""How the parts of one example stand in a row: order, separators, labels and position ids."""

from dataclasses import dataclass, replace

import numpy as np

from pipeline.removal import CoTExample

EXTRA_TOKENS = 8  # decoded beyond the longest target, so that an answer too long is seen to be wrong


@dataclass(frozen=True, slots=True)
class SequenceLayout:
    """What all rows of a run share: ``question, first separator, CoT, second separator, answer, end``.

    Source: arXiv:2405.14838, section 2; sections 1 and 5 of the method fix labels and separators.
    """

    first_separator_ids: tuple[int, ...]
    second_separator_ids: tuple[int, ...]
    end_id: int
    pad_id: int
    keep_second_separator: bool = True
    """Whether the second separator stays in a row whose CoT is all gone."""

    def second_separator(self, has_cot: bool) -> tuple[int, ...]:
        """Return the separator before the answer, which may go together with the last of the CoT."""
        return self.second_separator_ids if has_cot or self.keep_second_separator else ()

    def without_cot(self) -> "SequenceLayout":
        """Return the layout of rows that leave no place for a CoT: the prompt ends with both separators."""
        both = (*self.first_separator_ids, *self.second_separator_ids)
        return replace(self, first_separator_ids=both, second_separator_ids=())

    def num_end_tokens(self, has_cot: bool) -> int:
        """Return how many end tokens a full continuation of the prompt holds: separators may be end tokens too."""
        return 1 + self.second_separator(has_cot).count(self.end_id)


@dataclass(frozen=True, slots=True)
class Row:
    """One assembled row, unpadded."""

    input_ids: np.ndarray
    """(length,) integers."""
    position_ids: np.ndarray
    """(length,) integers."""
    label_start: int
    """Index of the first token that carries a label: the CoT's first, or what stands there when it is gone."""


def assemble_row(example: CoTExample, layout: SequenceLayout, shift: int = 0) -> Row:
    """Join the parts of an example.

    Args:
        example: What is left after removal.
        layout: Separators of the run.
        shift: Added to the position ids from the first separator on (kept positions); 0 counts without a gap.
    """
    prompt = (*example.question_ids, *layout.first_separator_ids)
    target = (*example.cot_ids, *layout.second_separator(bool(example.cot_ids)), *example.answer_ids)
    input_ids = np.array(prompt + target, dtype=np.int64)
    return Row(input_ids, _positions(len(input_ids), len(example.question_ids), shift), len(prompt))


def assemble_prompt(question_ids: tuple[int, ...], layout: SequenceLayout, shift: int = 0) -> Row:
    """Join question and first separator: what decoding starts from. It carries no label."""
    input_ids = np.array((*question_ids, *layout.first_separator_ids), dtype=np.int64)
    return Row(input_ids, _positions(len(input_ids), len(question_ids), shift), len(input_ids))


def _positions(length: int, num_question: int, shift: int) -> np.ndarray:
    positions = np.arange(length)
    positions[num_question:] += shift
    return positions
