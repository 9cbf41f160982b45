"""Addition of several numbers; the chain of thought is the sums so far.

Written like multiplication: digits least significant first, sums in brackets, the last sum being the answer. All sums
have the width of the largest possible one, so that equal places stand at equal positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from pipeline.errors import UserError
from pipeline.records import CoTRecord, to_text_line
from pipeline.tasks.digits import num_operands_of, smallest_operand_of, write_digits


@dataclass(frozen=True, slots=True)
class Addition:
    """All sums of N numbers of K digits without leading zeros."""

    num_operands: int
    """N, 3 to 999: two numbers have no sum on the way."""
    num_digits: int
    """K, at least 1."""

    def __post_init__(self) -> None:
        """Refuse fewer than 3 operands, or very many."""
        if not 3 <= self.num_operands <= 999:
            raise UserError(
                f"num_operands ({self.num_operands}) must be at least 3, or there is no sum on the way and so no "
                "chain of thought, and at most 999; correct it."
            )

    def num_questions(self) -> int:
        """Return the number of ordered choices of operands."""
        return int(num_operands_of(self.num_digits) ** self.num_operands)

    def record_at(self, index: int) -> CoTRecord:
        """Return the choice of operands with this number."""
        operands = []
        for _ in range(self.num_operands):
            index, offset = divmod(index, num_operands_of(self.num_digits))
            operands.append(smallest_operand_of(self.num_digits) + offset)
        return make_record(operands, self.num_digits)

    def text_lines(self, indices: Sequence[int]) -> list[str]:
        """Return rows as ``to_text_line`` writes them."""
        return [to_text_line(self.record_at(index)) for index in indices]


def make_record(operands: list[int], num_digits: int) -> CoTRecord:
    """Write a sum as a row: ``[12, 34, 56]`` gives ``2 1 + 4 3 + 6 5||( 6 4 0 ) #### 2 0 1``.

    Args:
        operands: Numbers of ``num_digits`` digits, at least 3 of them.
        num_digits: K.
    """
    width = len(str(len(operands) * (10**num_digits - 1)))
    _, *sums, total = accumulate(operands)
    return CoTRecord(
        question=" + ".join(write_digits(operand, num_digits) for operand in operands),
        steps=tuple(f"( {write_digits(running, width)} )" for running in sums),
        answer=write_digits(total, width),
    )
