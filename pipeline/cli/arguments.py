"""Parses the options of `tacit data` and `tacit score`; an unknown name is answered with the nearest known one."""

import difflib
from collections.abc import Collection, Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from pipeline.errors import UserError


def check_command(name: str, commands: Collection[str], prog: str) -> None:
    """Refuse an unknown sub-command.

    Raises:
        UserError: With the nearest known name.
    """
    if name not in commands:
        raise UserError(f"{prog} {name}: unknown command.{_hint(name, commands)} Commands: {', '.join(commands)}.")


def parse_options(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """Parse options; prints and exits on ``--help`` and on a value of the wrong type.

    Args:
        parser: Knows the options; without abbreviations.
        argv: Arguments after the sub-command.

    Raises:
        UserError: For an unknown option, with the nearest known name, or a number beyond all measure.
    """
    known = [
        option for action in parser._actions for option in action.option_strings if not option.endswith("+")
    ]  # argparse has no public way to list its options
    for argument in argv:
        option = argument.partition("=")[0]
        if option.startswith("--") and option not in known:
            raise UserError(f"{option}: unknown option of {parser.prog}.{_hint(option, known)}")
    options = parser.parse_args(list(argv))
    for name, value in vars(options).items():
        if _is_huge(value):
            raise UserError(f"--{name} holds a whole number of more than 64 bits; write a smaller one.")
    return options


def _is_huge(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_huge, value))
    return isinstance(value, int) and bool(abs(value) >> 63)


def _hint(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]}?" if near else " See --help."
