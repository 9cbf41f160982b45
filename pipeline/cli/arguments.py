"""Parses the options of commands; an unknown name is answered with the nearest known one."""

import argparse
import difflib
from collections.abc import Collection, Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from pipeline.errors import UserError

OF_EVERY_RECIPE = ("config", "print_config", "help")


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


def split_options(
    parser: argparse.ArgumentParser, argv: Sequence[str], switches: Collection[str]
) -> tuple[argparse.Namespace, list[str]]:
    """Take the options with a value out that a command with a recipe has for itself.

    Args:
        parser: Knows them; does not exit on errors. Their values stay text.
        argv: Arguments after the sub-command.
        switches: Names of the command's options without a value.

    Returns:
        The options, and what is left for the recipe.

    Raises:
        UserError: If an option has no value, or is none at all.
    """
    try:
        options, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"{error.argument_name} has no value; write {error.argument_name} VALUE.") from error
    known = [f"--{name}" for name in (*vars(options), *switches, *OF_EVERY_RECIPE)]
    for argument in rest:
        option = argument.partition("=")[0]
        if option.startswith("--") and "." not in option and option not in known:  # settings have section and dot
            raise UserError(f"{option}: unknown option of {parser.prog}.{_hint(option, known)}")
    return options, rest


def whole_number(option: str, text: str) -> int:
    """Return an option's value.

    Raises:
        UserError: If it is no whole number of at least 1.
    """
    try:
        if (value := int(text)) >= 1:
            return value
    except ValueError:
        pass
    raise UserError(f"{option} ({text}) must be a whole number of at least 1; correct it.")


def _is_huge(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_huge, value))
    return isinstance(value, int) and bool(abs(value) >> 63)


def _hint(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]}?" if near else " See --help."
