"""Numbers written as blank-separated digits, least significant first, and ranges of sizes as users write them."""

import re

from pipeline.errors import UserError

DIGITS = "[0-9](?: [0-9])*"
QUESTION = re.compile(rf"{DIGITS}(?: \* {DIGITS}|(?: \+ {DIGITS})+)")
RANGE = re.compile(r"([0-9]{1,3})(?:-([0-9]{1,3}))?")  # beyond that, a slip of the keys would take hours


def write_digits(number: int, width: int) -> str:
    """Write a number least significant digit first, filled with zeros to ``width``: ``(37, 3)`` gives ``7 3 0``."""
    return " ".join(f"{number:0{width}d}"[::-1])


def read_operands(question: str) -> tuple[str, list[str]] | None:
    """Read a question of this package's multiplication or addition data.

    Args:
        question: ``1 2 * 3 4``, or ``1 2 + 3 4 + 5 6`` with any number of terms.

    Returns:
        The sign, and the numbers written as usual: ``("*", ["21", "43"])``. None for any other text.
    """
    if not QUESTION.fullmatch(question):
        return None
    sign = "*" if "*" in question else "+"
    return sign, [digits.replace(" ", "")[::-1] for digits in question.split(f" {sign} ")]


def num_operands_of(num_digits: int) -> int:
    """Return how many numbers have ``num_digits`` digits and no leading zero; 0 itself is not counted."""
    return 9 * 10 ** (num_digits - 1)


def smallest_operand_of(num_digits: int) -> int:
    """Return the smallest number of ``num_digits`` digits without leading zero."""
    return 10 ** (num_digits - 1)


def parse_range(text: str, name: str) -> range:
    """Read ``5`` or ``3-8``, both ends included.

    Args:
        text: As the user wrote it.
        name: Option it stands for, for messages.

    Raises:
        UserError: If it is something else, holds 0, or runs backwards.
    """
    match = RANGE.fullmatch(text)
    if not match:
        raise UserError(f"{name} ({text!r}) must be a number or a range, up to 999; write 5, or 3-8 for 3 to 8.")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last:
        raise UserError(f"{name} ({text!r}) must begin at 1 or more and run upwards; write the smaller end first.")
    return range(first, last + 1)
