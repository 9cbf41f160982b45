"""Multiplication of two numbers, written as in the published data of the paper.

Digits stand least significant first. The chain of thought is the school method: one partial product per digit of the
second number, shifted by leading zeros, and in brackets the sum so far (the last sum is the answer).

Source: arXiv:2405.14838, section 4 and its published data.
"""

import re
from dataclasses import dataclass

from pipeline.errors import UserError
from pipeline.records import CoTRecord
from pipeline.tasks.digits import num_operands_of, smallest_operand_of, write_digits

SIZES = re.compile(r"([0-9]+)x([0-9]+)(?:-([0-9]+)x([0-9]+))?")


@dataclass(frozen=True, slots=True)
class Multiplication:
    """All products of a K-digit and an M-digit number without leading zeros."""

    num_digits_a: int
    """K, digits of the first number, at least 1."""
    num_digits_b: int
    """M, digits of the second number, at least 1; the chain of thought has M partial products."""

    def num_questions(self) -> int:
        """Return the number of ordered pairs of operands."""
        return num_operands_of(self.num_digits_a) * num_operands_of(self.num_digits_b)

    def record_at(self, index: int) -> CoTRecord:
        """Return the pair with this number."""
        index_a, index_b = divmod(index, num_operands_of(self.num_digits_b))
        a, b = smallest_operand_of(self.num_digits_a) + index_a, smallest_operand_of(self.num_digits_b) + index_b
        return make_record(a, b, (self.num_digits_a, self.num_digits_b))


def make_record(a: int, b: int, num_digits: int | tuple[int, int]) -> CoTRecord:
    """Write ``a * b`` as a row.

    Args:
        a: First number.
        b: Second number.
        num_digits: K for K x K, or (K, M): digits of ``a`` and ``b`` without leading zeros.

    Returns:
        The row; its steps are the partial products and the sums so far.

    Raises:
        ValueError: If a number has another count of digits.
    """
    num_digits_a, num_digits_b = (num_digits, num_digits) if isinstance(num_digits, int) else num_digits
    for name, operand, count in (("a", a, num_digits_a), ("b", b, num_digits_b)):
        if operand < 1 or len(str(operand)) != count:
            raise ValueError(f"{name} ({operand}) must have {count} digits and no leading zero.")
    steps: list[str] = []
    total = 0
    for shift, digit in enumerate(reversed(str(b))):
        partial = a * int(digit) * 10**shift
        width = num_digits_a + 1 + shift
        if shift == 0:
            steps.append(write_digits(partial, width))
        else:
            # The first sum is the first partial product itself and is not written again.
            if shift > 1:
                steps.append(f"( {write_digits(total, width - 1)} )")
            steps.append(f"+ {write_digits(partial, width)}")
        total += partial
    return CoTRecord(
        question=f"{write_digits(a, num_digits_a)} * {write_digits(b, num_digits_b)}",
        steps=tuple(steps),
        answer=write_digits(total, num_digits_a + num_digits_b),
    )


def parse_sizes(text: str, name: str) -> list[Multiplication]:
    """Read ``4x4``, or ``2x2-4x3`` for every K from 2 to 4 with every M from 2 to 3.

    Args:
        text: As the user wrote it.
        name: Option it stands for, for messages.

    Raises:
        UserError: If it is something else, holds 0, or runs backwards.
    """
    match = SIZES.fullmatch(text)
    if not match:
        raise UserError(f"{name} ({text!r}) must be KxM or a range; write 4x4, or 2x2-4x4 for 2 to 4 digits each.")
    first_a, first_b = int(match[1]), int(match[2])
    last_a, last_b = int(match[3] or first_a), int(match[4] or first_b)
    if not (1 <= first_a <= last_a and 1 <= first_b <= last_b):
        raise UserError(f"{name} ({text!r}) must begin at 1 or more and run upwards; write the smaller end first.")
    return [Multiplication(a, b) for a in range(first_a, last_a + 1) for b in range(first_b, last_b + 1)]
