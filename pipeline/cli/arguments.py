"""Parses the options of commands; an unknown name is answered with the nearest known one."""

import argparse
import difflib
import re
from collections.abc import Collection, Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from pipeline.config.parsing import hide_what_is_not_read
from pipeline.config.values import as_type
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
    """Parse options; prints and exits on ``--help``.

    Args:
        parser: Knows the options; without abbreviations.
        argv: Arguments after the sub-command.

    Raises:
        UserError: For an unknown option, with the nearest known name; for one that is missing, or has a value of the
            wrong type, or a number beyond all measure.
    """
    hide_what_is_not_read(parser)
    known = [option for action in parser._actions for option in action.option_strings]
    for argument in argv:
        option = argument.partition("=")[0]
        if option.startswith("--") and option not in known:
            raise UserError(f"{option}: unknown option of {parser.prog}.{_hint(option, known)}")
    parser.exit_on_error = False  # its own way out is its whole usage, and its fault in Python's words
    try:
        options = parser.parse_args(list(argv))
    except argparse.ArgumentError as error:
        raise UserError(_fault(parser, argv, str(error))) from error
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


def _fault(parser: ArgumentParser, argv: Sequence[str], message: str) -> str:
    """Return what a parser found at fault as the other commands would tell it."""
    actions = {action.dest: action for action in parser._actions}
    if missing := re.fullmatch("the following arguments are required: (.+)", message):
        named = (actions[dest] for dest in missing[1].split(", "))
        shown = (
            action.option_strings[0] if action.option_strings else action.metavar or action.dest for action in named
        )
        return f"{parser.prog} needs {', '.join(map(str, shown))}; see --help."
    if wrong := re.match('Parser key "(.+?)"', message):
        option, text = f"--{wrong[1]}", ""
        for argument, following in zip(argv, [*argv[1:], ""], strict=True):
            name, equals, value = argument.partition("=")
            if name == option:
                text = value if equals else following
        try:
            as_type(text, getattr(actions[wrong[1]], "_typehint", str))
        except ValueError as error:
            return f"{option} ({text}) {error}; correct it."
    return f"{parser.prog}: {' '.join(message.split())}; see --help."


def _is_huge(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_huge, value))
    return isinstance(value, int) and bool(abs(value) >> 63)


def _hint(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]}?" if near else " See --help."
