"""What every task offers: its questions, numbered without gaps, so that splits are drawn exactly."""

from collections.abc import Sequence
from typing import Protocol

from pipeline.records import CoTRecord


class Task(Protocol):
    """A finite set of different questions of one size, each with its chain of thought and answer."""

    def num_questions(self) -> int:
        """Return how many different questions there are; a Python int, as large as it needs to be."""
        ...

    def record_at(self, index: int) -> CoTRecord:
        """Return the row of a question by its number, 0 to ``num_questions() - 1``; no two numbers give the same."""
        ...

    def text_lines(self, indices: Sequence[int]) -> list[str]:
        """Return the rows of questions as ``to_text_line`` writes them."""
        ...
