"""`tacit --completion SHELL`: prints a script by which a shell completes commands, options and settings."""

import argparse
import contextlib
import importlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence

import shtab

from pipeline.cli.main import COMMANDS
from pipeline.errors import UserError

SHELLS = ("bash", "zsh", "fish")
# As shtab's own, but behind an option that takes several files an option may follow, too.
BASH_FILES = """
_tacit_files() {
  if [[ "$completing_word" == -* ]]; then
    compgen -W "${current_option_strings[*]}" -- "$completing_word"
  else
    compgen -f -- "$1"
  fi
}
"""
FILES = {**shtab.FILE, "bash": "_tacit_files", "preamble": {"bash": BASH_FILES}}


def main(argv: Sequence[str]) -> int:
    """Print the script.

    Args:
        argv: Arguments after ``--completion``: the shell.

    Returns:
        0.

    Raises:
        UserError: If the shell is not one of ``SHELLS``.
    """
    shell = " ".join(argv)
    if shell not in SHELLS:
        raise UserError(f"--completion ({shell}) must be one of {', '.join(SHELLS)}; write `tacit --completion bash`.")
    print(shtab.complete(_whole_parser(), shell))
    return 0


def _whole_parser() -> argparse.ArgumentParser:
    """Return a parser that knows every command with its options; nothing is parsed by it."""
    root = argparse.ArgumentParser(prog="tacit")
    root.add_argument("--completion", choices=SHELLS, help="Print a script that completes commands and options.")
    root.add_argument("--version", action="store_true", help="Print the version.")
    for name, parser in _add_commands(root, COMMANDS):
        module = importlib.import_module(f"pipeline.cli.{name}")
        of_command = {inner: run.__doc__ for inner, run in getattr(module, "COMMANDS", {}).items()}
        if not of_command:
            _add_options(parser, module.main, ["--help"])
            continue
        for inner, inner_parser in _add_commands(parser, of_command):
            _add_options(inner_parser, module.main, [inner, "--help"])
    return root


def _add_commands(
    parser: argparse.ArgumentParser, commands: Mapping[str, str]
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    group = parser.add_subparsers()
    for name, text in commands.items():
        yield name, group.add_parser(name, help=text)


def _add_options(parser: argparse.ArgumentParser, run: Callable[[list[str]], int], argv: list[str]) -> None:
    """Add what a command lists in its help, so that no list of options has to be kept beside it."""
    for shown in _parsers_of_help(run, argv):
        for action in shown._actions:  # argparse has no public way to list its options
            options = action.option_strings
            if "--help" in options or action.help == argparse.SUPPRESS:
                continue
            if action.nargs == 0:
                parser.add_argument(*options, action="store_true", help=action.help)
                continue
            names = options or [action.dest]
            added = parser.add_argument(*names, nargs=action.nargs, choices=_choices(action), help=action.help)
            if "--config" in options or (getattr(action, "_typehint", None) is str and not added.choices):
                added.complete = FILES  # type: ignore[attr-defined]


def _choices(action: argparse.Action) -> list[str] | None:
    """Return the values that an option's help names, if it does."""
    if action.choices:
        return list(action.choices)
    metavar = action.metavar
    return metavar[1:-1].split(",") if isinstance(metavar, str) and metavar.startswith("{") else None


def _parsers_of_help(run: Callable[[list[str]], int], argv: list[str]) -> list[argparse.ArgumentParser]:
    """Return the parsers that write a command's help."""
    shown: list[argparse.ArgumentParser] = []
    print_help = argparse.ArgumentParser.print_help
    argparse.ArgumentParser.print_help = lambda self, file=None: shown.append(self)  # type: ignore[method-assign]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            run(argv)
    finally:
        argparse.ArgumentParser.print_help = print_help  # type: ignore[method-assign]
    return shown
