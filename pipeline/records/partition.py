"""Divides existing rows into splits by question."""

import random
from collections.abc import Iterable, Mapping

from pipeline.errors import UserError


def as_compared(question: str) -> str:
    """Return what a question is known by: more blanks, or others, make no other question."""
    return " ".join(question.split())


def draw_held_out(questions: Iterable[str], num_held_out: Mapping[str, int], seed: int) -> dict[str, str]:
    """Draw the questions of the held-out splits; rows with the same question belong to the same split.

    Args:
        questions: Question of every row; repeats count once.
        num_held_out: Split name to its number of different questions.
        seed: Same seed and questions, same draw.

    Returns:
        Question, as compared, to split name, for the held-out questions only.

    Raises:
        UserError: If no question would be left over.
    """
    different = list(dict.fromkeys(map(as_compared, questions)))  # a set's order changes from process to process
    num_wanted = sum(num_held_out.values())
    if num_wanted >= len(different):
        parts = ", ".join(f"{name}: {count:,}" for name, count in num_held_out.items())
        raise UserError(
            f"{num_wanted:,} held-out questions ({parts}) must be below the {len(different):,} "
            "different questions there are; hold out fewer."
        )
    drawn = iter(random.Random(seed).sample(different, num_wanted))
    return {next(drawn): name for name, count in num_held_out.items() for _ in range(count)}
