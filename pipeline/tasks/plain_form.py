"""Arithmetic as people type it, ``1234 * 5678``, and as a task writes it, least significant digit first; both ways."""

import re
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import UserError
from pipeline.records import CoTRecord
from pipeline.tasks import addition, multiplication
from pipeline.tasks.digits import DIGITS, read_operands

TaskName = Literal["auto", "multiplication", "addition", "text"]
NUMBER = "[0-9]{1,999}"  # the generators go no further, and Python reads no more than some thousand digits
PRODUCT = re.compile(rf"({NUMBER})\s*[*xX×]\s*({NUMBER})")
SUM = re.compile(rf"{NUMBER}(?:\s*\+\s*{NUMBER}){{2,998}}")
MOST_CHARACTERS = 8000  # of a written number


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """A typed question whose answer is known."""

    record: CoTRecord
    """As its task writes it."""
    result: int


def read_arithmetic(text: str, task: TaskName) -> Arithmetic | None:
    """Read a question in plain form.

    Args:
        text: As typed, without outer blanks.
        task: What it must be; ``auto`` goes by its form, ``text`` takes every question as it stands.

    Returns:
        The question as its task writes it; None where it is to be asked as it stands.

    Raises:
        UserError: If the task has no such question.
    """
    if task in ("auto", "multiplication") and PRODUCT.fullmatch(text):
        a, b = _numbers(text)
        if 0 in (a, b):
            raise UserError(f"question ({text[:60]!r}) multiplies by 0, which the task never does; take other numbers.")
        return Arithmetic(multiplication.make_record(a, b, (len(str(a)), len(str(b)))), a * b)
    if task in ("auto", "addition") and SUM.fullmatch(text):
        operands = _numbers(text)
        sizes = {len(str(operand)) for operand in operands}
        if len(sizes) > 1 or 0 in operands:
            raise UserError(
                f"question ({text[:60]!r}) must add numbers of equally many digits, none of them 0; correct it, or "
                "ask it as it stands with --task text."
            )
        return Arithmetic(addition.make_record(operands, sizes.pop()), sum(operands))
    if task in ("auto", "text"):
        return None
    example = "1234 * 5678" if task == "multiplication" else "123 + 456 + 789, three numbers or more,"
    raise UserError(f"question ({text[:60]!r}) must be such as {example} with --task {task}; correct it.")


def read_number(written: str) -> int | None:
    """Return the number written least significant digit first, 37 for ``7 3 0``; None if the text is none."""
    is_number = len(written) <= MOST_CHARACTERS and re.fullmatch(DIGITS, written)
    return int(written[::-2]) if is_number else None


def plain_form(question: str) -> str:
    """Return a product or sum that its task has written as people type it; any other question as it stands."""
    read = read_operands(question)
    if read is None:
        return question
    sign, numbers = read
    plain = f" {sign} ".join(numbers)
    try:
        typed = read_arithmetic(plain, "auto")
    except UserError:
        return question
    return plain if typed and typed.record.question == question else question


def _numbers(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(NUMBER, text)]
