"""One row of data: a question, the steps of its chain of thought (CoT), and the answer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

BETWEEN_EQUATIONS = re.compile(r"(?<=>>) (?=<<)")
# Blank lines stay with the line before them.
BETWEEN_LINES = re.compile(r"(?<=\n)(?=[^\S\n]*\S)")


@dataclass(frozen=True, slots=True)
class CoTRecord:
    """A question with its worked solution, as text."""

    question: str
    """What is asked; a conversation of several messages stands here as JSON (``pipeline.records.chat``)."""
    steps: tuple[str, ...]
    """The chain of thought in order; empty where there is none."""
    answer: str
    """The final answer, without ``####``."""

    @property
    def cot(self) -> str:
        """The chain of thought as one text: the steps joined by one blank, or by the line break that a step ends in."""
        joined = " ".join(self.steps)
        if "\n" not in joined:
            return joined
        return "".join(f"{step}{gap_behind(step)}" for step in self.steps[:-1]) + self.steps[-1]


def gap_behind(step: str) -> str:
    """Return what stands between a step and the next."""
    return "" if step.endswith("\n") else " "


def split_steps(cot: str) -> tuple[str, ...]:
    """Split a chain of thought into steps so that joining them gives it back.

    Args:
        cot: Chain of thought. A text of several lines is split into its lines, each with its line break; in one line,
            ``<<..>> <<..>>`` (GSM8K) is split between the equations, and any other text is one step.

    Returns:
        The steps; none for an empty text.
    """
    if "\n" in cot:
        return tuple(BETWEEN_LINES.split(cot))
    return tuple(BETWEEN_EQUATIONS.split(cot)) if cot else ()


def is_split_text(steps: Sequence[str]) -> bool:
    """Return whether steps come from a text of several lines, which alone gives them back."""
    return any(step.endswith("\n") for step in steps)
