"""How a command can end early: each kind becomes clear lines and an exit code on the command line, no traceback."""

from collections.abc import Sequence

MOST_LISTED = 12


class UserError(ValueError):
    """A wrong setting or input; exit code 2.

    Its message names the field or file, the value, the rule, and the remedy, one fault a line.
    """


class RunError(Exception):
    """A run that was asked for rightly cannot go on: full disk, dead rank, loss that is no number. Exit code 1."""


class Interrupted(Exception):
    """A run was asked to stop, and has saved; exit code 75."""


def in_one_line(error: Exception) -> str:
    """Return what a library says of an error, or else the error's kind."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: Exception) -> str:
    """Return the first line that a library says of an error, without its full stop."""
    return str(error).strip().split("\n", 1)[0].rstrip(".")


def shortened(text: str, most: int) -> str:
    """Return a text for a message, cut where it has more than ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def listed(numbers: Sequence[float]) -> str:
    """Return the numbers that a message offers; of many, the first and the last."""
    some = numbers if len(numbers) <= MOST_LISTED else [*numbers[:3], "...", numbers[-1]]
    return ", ".join(map(str, some))
