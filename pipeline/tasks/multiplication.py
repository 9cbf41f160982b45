"""Multiplication of two numbers, written as in the published data of the paper.

Digits stand least significant first. The chain of thought is the school method: one partial product per digit of the
second number, shifted by leading zeros, and in brackets the sum so far (the last sum is the answer). The sums may also
stand behind all products, or be left out.

Source: arXiv:2405.14838, section 4 and its published data.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np

from pipeline.errors import UserError
from pipeline.records import CoTRecord, to_text_line
from pipeline.tasks.digits import num_operands_of, smallest_operand_of, write_digits

SIZES = re.compile(r"([0-9]{1,3})x([0-9]{1,3})(?:-([0-9]{1,3})x([0-9]{1,3}))?")
MOST_DIGITS_OF_INT64 = 18
Number = TypeVar("Number", int, np.ndarray)
Sums = Literal["between", "last", "none"]


@dataclass(frozen=True, slots=True)
class Multiplication:
    """All products of a K-digit and an M-digit number without leading zeros."""

    num_digits_a: int
    """K, digits of the first number, at least 1."""
    num_digits_b: int
    """M, digits of the second number, at least 1; the chain of thought has M partial products."""
    sums: Sums = "between"
    """Where the sums so far stand: each behind its last product, all behind the last product, or nowhere."""

    def num_questions(self) -> int:
        """Return the number of ordered pairs of operands."""
        return num_operands_of(self.num_digits_a) * num_operands_of(self.num_digits_b)

    def record_at(self, index: int) -> CoTRecord:
        """Return the pair with this number."""
        return make_record(*self._operands(index), (self.num_digits_a, self.num_digits_b), self.sums)

    def text_lines(self, indices: Sequence[int]) -> list[str]:
        """Return rows as ``to_text_line`` writes them; all at once, where their products fit into 64 bits."""
        if self.num_digits_a + self.num_digits_b > MOST_DIGITS_OF_INT64:
            return [to_text_line(self.record_at(index)) for index in indices]
        a, b = self._operands(np.array(indices, dtype=np.int64))
        # The rows differ in nothing but their digits, and these stand at the same places.
        line = to_text_line(self.record_at(0)) + "\n"
        characters = np.repeat(np.frombuffer(line.encode(), np.uint8)[:, None], len(indices), axis=1)  # (line, rows)
        places = (place for place, character in enumerate(line) if character.isdigit())
        written = [(a, self.num_digits_a), (b, self.num_digits_b)]
        written += [(step.number, step.width) for step in _steps(a, b, self.num_digits_a, self.num_digits_b, self.sums)]
        written += [(a * b, self.num_digits_a + self.num_digits_b)]
        for numbers, width in written:
            for _ in range(width):
                rest = numbers // 10
                characters[next(places)] = ord("0") + numbers - 10 * rest
                numbers = rest
        return characters.T.tobytes().decode().splitlines()

    def _operands(self, index: Number) -> tuple[Number, Number]:
        index_a, index_b = divmod(index, num_operands_of(self.num_digits_b))
        return smallest_operand_of(self.num_digits_a) + index_a, smallest_operand_of(self.num_digits_b) + index_b


class _Step(NamedTuple, Generic[Number]):
    """A number of the chain of thought."""

    number: Number
    width: int
    """In digits."""
    form: str
    """How it is written."""


def _steps(a: Number, b: Number, num_digits_a: int, num_digits_b: int, sums: Sums) -> list[_Step[Number]]:
    """Return the chain of thought in the order in which it is written."""
    products = [
        _Step(a * (b // 10**shift % 10) * 10**shift, num_digits_a + 1 + shift, "+ {}" if shift else "{}")
        for shift in range(num_digits_b)
    ]
    # The first sum is the first product, the last is the answer; neither is written again.
    totals = [
        _Step(total, num_digits_a + count, "( {} )")
        for count, total in enumerate(accumulate(product.number for product in products), start=1)
        if 1 < count < num_digits_b
    ]
    if sums == "none":
        return products
    if sums == "last":
        return products + totals
    pairs = zip_longest(products[1:], totals)
    return products[:1] + [step for pair in pairs for step in pair if step is not None]


def make_record(a: int, b: int, num_digits: int | tuple[int, int], sums: Sums = "between") -> CoTRecord:
    """Write ``a * b`` as a row.

    Args:
        a: First number.
        b: Second number.
        num_digits: K for K x K, or (K, M): digits of ``a`` and ``b`` without leading zeros.
        sums: Where the sums so far stand, as in ``Multiplication``.

    Returns:
        The row; its steps are the partial products and the sums so far.

    Raises:
        ValueError: If a number has another count of digits.
    """
    num_digits_a, num_digits_b = (num_digits, num_digits) if isinstance(num_digits, int) else num_digits
    for name, operand, count in (("a", a, num_digits_a), ("b", b, num_digits_b)):
        if operand < 1 or len(str(operand)) != count:
            raise ValueError(f"{name} ({operand}) must have {count} digits and no leading zero.")
    steps = _steps(a, b, num_digits_a, num_digits_b, sums)
    return CoTRecord(
        question=f"{write_digits(a, num_digits_a)} * {write_digits(b, num_digits_b)}",
        steps=tuple(step.form.format(write_digits(step.number, step.width)) for step in steps),
        answer=write_digits(a * b, num_digits_a + num_digits_b),
    )


def parse_sizes(text: str, name: str, sums: Sums = "between") -> list[Multiplication]:
    """Read ``4x4``, or ``2x2-4x3`` for every K from 2 to 4 with every M from 2 to 3.

    Args:
        text: As the user wrote it.
        name: Option it stands for, for messages.
        sums: Where the sums so far stand in all of them.

    Raises:
        UserError: If it is something else, holds 0, or runs backwards.
    """
    match = SIZES.fullmatch(text)
    if not match:
        raise UserError(
            f"{name} ({text!r}) must be KxM or a range, up to 999x999; write 4x4, or 2x2-4x4 for 2 to 4 digits each."
        )
    first_a, first_b = int(match[1]), int(match[2])
    last_a, last_b = int(match[3] or first_a), int(match[4] or first_b)
    if not (1 <= first_a <= last_a and 1 <= first_b <= last_b):
        raise UserError(f"{name} ({text!r}) must begin at 1 or more and run upwards; write the smaller end first.")
    return [Multiplication(a, b, sums) for a in range(first_a, last_a + 1) for b in range(first_b, last_b + 1)]
