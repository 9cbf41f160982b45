"""How long rows are, and what is left of them at a stage. Pure."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import UserError
from pipeline.removal import Side, Unit

if TYPE_CHECKING:
    from pipeline.examples import ExampleSet


@dataclass(frozen=True, slots=True)
class RowLengths:
    """Tokens in the parts of each row; all arrays are (rows,) integers but for ``steps``."""

    prompt: np.ndarray
    """Question and first separator: no labels."""
    cot: np.ndarray
    answer: np.ndarray
    """With the end token."""
    steps: np.ndarray
    """Tokens in every reasoning step, row after row."""
    num_steps: np.ndarray
    second_separator: int
    """Tokens before the answer."""
    keep_second_separator: bool
    """Whether they stay in a row without CoT."""

    def longest_cot(self, unit: Unit) -> int:
        """Return the units (tokens or steps) in the longest CoT."""
        return int((self.cot if unit == "token" else self.num_steps).max())

    def cot_left(self, num_removed: int, removes_all: bool, side: Side, unit: Unit) -> np.ndarray:
        """Return the CoT tokens of each row, (rows,), when so many units are gone; no smoothing."""
        if removes_all:
            return np.zeros_like(self.cot)
        if unit == "token":
            return np.maximum(self.cot - num_removed, 0)
        sums = np.concatenate([[0], np.cumsum(self.steps)])
        ends = np.cumsum(self.num_steps)
        begins = ends - self.num_steps
        gone = np.minimum(num_removed, self.num_steps)
        if side == "left":
            return self.cot - (sums[begins + gone] - sums[begins])
        return self.cot - (sums[ends] - sums[ends - gone])

    def labels(self, cot_left: np.ndarray) -> np.ndarray:
        """Return the tokens of each row that carry loss, (rows,)."""
        separator = self.second_separator * ((cot_left > 0) | self.keep_second_separator)
        return cot_left + separator + self.answer


def lengths_of(examples: "ExampleSet") -> RowLengths:
    """Return the lengths of tokenised rows."""
    layout = examples.layout
    num_steps = examples.lengths("cot_step_lengths")
    steps = np.concatenate([chunk.flatten().to_numpy() for chunk in examples.rows["cot_step_lengths"].chunks])
    return RowLengths(
        prompt=examples.lengths("question_ids") + len(layout.first_separator_ids),
        cot=examples.lengths("cot_ids"),
        answer=examples.lengths("answer_ids"),
        steps=steps,
        num_steps=num_steps,
        second_separator=len(layout.second_separator_ids),
        keep_second_separator=layout.keep_second_separator,
    )


MOST_TOKENS, MOST_ROWS = 10**7, 10**12


def parse_lengths(text: str) -> tuple[int, RowLengths]:
    """Read ``ROWS,QUESTION,COT,ANSWER``, separators included in the question and the answer.

    Returns:
        The number of rows, and the lengths of one of them, which stands for all.

    Raises:
        UserError: If these are not four such numbers.
    """
    parts = text.split(",")
    numbers = [int(part) for part in parts if part.strip().isdecimal() and len(part) < 20]
    is_right = len(parts) == len(numbers) == 4 and min(numbers[0], numbers[1], numbers[3]) >= 1
    if not is_right or max(numbers[1:]) > MOST_TOKENS or numbers[0] > MOST_ROWS:
        raise UserError(
            f"--lengths ({text}) must be ROWS,QUESTION,COT,ANSWER, four whole numbers with a CoT of 0 or more and the "
            f"others of 1 or more, such as 378000,80,60,6, and at most {MOST_TOKENS:,} tokens; correct it."
        )
    rows, question, cot, answer = numbers
    one = np.ones(1, dtype=np.int64)
    return rows, RowLengths(question * one, cot * one, answer * one, one[:0], 0 * one, 0, True)
