"""Multiplication of numbers that hold zeros: easier questions of the same size, to be practised beside all others.

A digit of a product is a sum over pairs of digits, modulo 10. A model that cannot find one of the pairs yet sees chance
in that digit, whatever it knows of the others; where most pairs are zero it sees each of them alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

from pipeline.records import CoTRecord
from pipeline.tasks.digits import num_operands_of, smallest_operand_of
from pipeline.tasks.multiplication import Multiplication


@dataclass(frozen=True, slots=True)
class SparseMultiplication:
    """Those products of a multiplication whose two numbers hold a given count of zeros between them."""

    size: Multiplication
    """All products."""
    num_zeros: int
    """Zeros, from 0 to the count of digits that do not lead."""

    @property
    def _num_places(self) -> int:
        return self.size.num_digits_a + self.size.num_digits_b - 2

    def num_questions(self) -> int:
        """Return the number of ordered pairs of operands."""
        return int(comb(self._num_places, self.num_zeros) * 9 ** (self._num_places - self.num_zeros + 2))

    def record_at(self, index: int) -> CoTRecord:
        """Return the pair with this number."""
        return self.size.record_at(self._among_all(index))

    def text_lines(self, indices: Sequence[int]) -> list[str]:
        """Return rows as ``to_text_line`` writes them."""
        return self.size.text_lines([self._among_all(index) for index in indices])

    def _among_all(self, index: int) -> int:
        """Return the number that ``size`` gives this pair."""
        # The number says, from its lowest part on: the two leading digits, the other digits, where the zeros are.
        operands = []
        for _ in range(2):
            index, digit = divmod(index, 9)
            operands.append(digit + 1)
        rank, digits = divmod(index, 9 ** (self._num_places - self.num_zeros))
        zeros = _subset(rank, self._num_places, self.num_zeros)
        for place in range(self._num_places):
            digit = 0
            if place not in zeros:
                digits, digit = divmod(digits, 9)
                digit += 1
            operand = 0 if place < self.size.num_digits_a - 1 else 1
            operands[operand] = 10 * operands[operand] + digit
        a, b = operands
        index_a = a - smallest_operand_of(self.size.num_digits_a)
        return index_a * num_operands_of(self.size.num_digits_b) + b - smallest_operand_of(self.size.num_digits_b)


def _subset(rank: int, num_places: int, size: int) -> set[int]:
    """Return the subset of ``size`` places that has this number, 0 to ``comb(num_places, size) - 1``."""
    chosen: set[int] = set()
    for place in range(num_places):
        num_with_it = comb(num_places - place - 1, size - len(chosen) - 1) if len(chosen) < size else 0
        if rank < num_with_it:
            chosen.add(place)
        else:
            rank -= num_with_it
    return chosen
