"""Accuracy of rows that are alike in what makes them hard. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.scoring import ScoreReport, extract_answer
from pipeline.tasks.digits import read_operands


@dataclass(frozen=True, slots=True)
class Group:
    """Rows with one value of a property."""

    value: str
    score: ScoreReport

    def to_json(self) -> dict[str, Any]:
        """Return value, counts, accuracy and interval."""
        return {
            "value": self.value,
            **self.score.to_json(),
        }


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What is known of a row before any model sees it."""

    question: str
    answer: str
    num_cot_steps: int
    num_cot_tokens: int
    """Of the CoT in full."""


def by_difficulty(rows: Sequence[RowFacts], correct: Sequence[bool]) -> dict[str, list[Group]]:
    """Return the accuracy of groups of rows, by each property that makes rows harder.

    ``digits`` are the sizes of the numbers (``4x4``, ``2+2+2``), ``carries`` what ``num_carries`` counts; both are left
    out where no question is of the digit tasks. ``cot_steps`` and ``cot_tokens`` are steps and tokens of the row's CoT,
    ``answer_length`` characters of its answer, blanks not counted. Tokens and characters come in quartiles.

    Args:
        rows: The rows.
        correct: Whether each was answered right.
    """
    values: dict[str, list[Any]] = {
        "digits": [sizes_of(row.question) for row in rows],
        "carries": [carries_of(row.question) for row in rows],
        "cot_steps": [row.num_cot_steps for row in rows],
        "cot_tokens": quartiles([row.num_cot_tokens for row in rows]),
        "answer_length": quartiles([len(extract_answer(row.answer).replace(" ", "")) for row in rows]),
    }
    return {name: groups for name, keys in values.items() if (groups := group(keys, correct))}


def group(keys: Sequence[Any], correct: Sequence[bool]) -> list[Group]:
    """Return the rows of each key, smallest key first; those whose key is None are left out.

    A key that is a tuple is written by its last entry and sorted by all.
    """
    counts: dict[Hashable, list[bool]] = {}
    for key, is_right in zip(keys, correct, strict=True):
        if key is not None:
            counts.setdefault(key, []).append(is_right)
    return [
        Group(str(key[-1] if isinstance(key, tuple) else key), ScoreReport(sum(rights), len(rights)))
        for key, rights in sorted(counts.items())
    ]


def sizes_of(question: str) -> tuple[tuple[int, ...], str] | None:
    """Return how many digits a question's numbers have, also as text: ``((2, 1), "2x1")``; None if it has none."""
    read = read_operands(question)
    if read is None:
        return None
    sign, operands = read
    sizes = tuple(map(len, operands))
    return sizes, ("x" if sign == "*" else "+").join(map(str, sizes))


def carries_of(question: str) -> int | None:
    """Return ``num_carries`` of a question of multiplication; None of any other."""
    sign, operands = read_operands(question) or ("", [])
    return num_carries(*map(int, operands)) if sign == "*" else None


def num_carries(a: int, b: int) -> int:
    """Return how many carries multiplying by the school method makes when its columns are added up.

    The partial products ``a * digit of b``, each shifted to its digit's place, stand below each other and are added
    column by column from the right. Each column whose sum, with what was carried into it, is 10 or more makes one
    carry, however large. Carries inside a partial product are not counted: with a one-digit ``b`` there are none.
    """
    partial_products = [a * int(digit) * 10**place for place, digit in enumerate(reversed(str(b)))]
    num_columns = len(str(a * b))
    carry = count = 0
    for column in range(num_columns):
        carry = (carry + sum(product // 10**column % 10 for product in partial_products)) // 10
        count += carry > 0
    return count


def quartiles(values: Sequence[int]) -> list[tuple[int, str]]:
    """Return each value's quartile as its smallest value and as text: ``(5, "5-8")``, or ``(5, "5")``.

    Equal values are in one quartile, so there are fewer than four where many are equal.
    """
    ordered = sorted(values)
    # The last value of each quarter; -(-x // y) rounds up.
    ends = sorted({ordered[-(-len(ordered) * quarter // 4) - 1] for quarter in (1, 2, 3, 4)})
    firsts = [ordered[bisect_right(ordered, end)] for end in (ordered[0] - 1, *ends[:-1])]
    names = [(first, str(first) if first == end else f"{first}-{end}") for first, end in zip(firsts, ends, strict=True)]
    return [names[bisect_left(ends, value)] for value in values]
