"""One row of data: a question, the steps of its chain of thought (CoT), and the answer."""

import re
from dataclasses import dataclass

BETWEEN_EQUATIONS = re.compile(r"(?<=>>) (?=<<)")


@dataclass(frozen=True, slots=True)
class CoTRecord:
    """A question with its worked solution, as text."""

    question: str
    """What is asked."""
    steps: tuple[str, ...]
    """The chain of thought in order; empty where there is none."""
    answer: str
    """The final answer, without ``####``."""

    @property
    def cot(self) -> str:
        """The chain of thought as one text: the steps joined by one blank."""
        return " ".join(self.steps)


def split_steps(cot: str) -> tuple[str, ...]:
    """Split a chain of thought into steps so that ``" ".join(steps)`` gives it back.

    Args:
        cot: Chain of thought. ``<<..>> <<..>>`` (GSM8K) is split between the equations; any other text is one step.

    Returns:
        The steps; none for an empty text.
    """
    return tuple(BETWEEN_EQUATIONS.split(cot)) if cot else ()
