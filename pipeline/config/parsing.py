"""Reads a configuration from recipe and command line. Every mistake is told at once, with the nearest known name."""

import argparse
import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, set_parsing_settings

from pipeline.config.checks import check
from pipeline.config.recipe_yaml import read_recipe
from pipeline.config.schema import Config
from pipeline.config.values import as_type, from_text
from pipeline.errors import UserError

set_parsing_settings(docstring_parse_attribute_docstrings=True)

FREE_FORM = "model.from_scratch"  # its keys are the architecture's own, so they cannot be listed here


def parse_command_line(
    argv: Sequence[str], prog: str, switches: Mapping[str, str] | None = None
) -> tuple[Config, frozenset[str]]:
    """Read ``--config FILE``, dotted overrides and switches; prints and exits on ``--help`` and ``--print_config``.

    Args:
        argv: Arguments after the subcommand. Defaults < recipe < overrides, in whatever order they stand.
        prog: Name shown in the usage line.
        switches: Options without a value, name to help text.

    Returns:
        The checked configuration, and the names of the switches that were given.

    Raises:
        UserError: With every fault found.
    """
    switches = {**(switches or {}), "print_config": "Print the resolved recipe and stop."}
    if any(argument in ("-h", "--help") for argument in argv):
        _build_parser(prog, switches).print_help()
        raise SystemExit(0)
    recipe_paths, overrides, given = _split_arguments(argv, switches)
    settings: dict[str, Any] = {}
    for path in recipe_paths:
        settings.update(_flatten(read_recipe(path)))
    values, faults = _read_settings({**settings, **dict(overrides)})
    config = _build(Config, values)
    if "print_config" in given and not faults:
        print(config_to_yaml(config), end="")
        raise SystemExit(0)
    # A setting that could not be read stands at its default here; what that breaks is not the user's second mistake.
    others = [fault for fault in check(config) if not any(name in fault for name in faults)]
    if faults or others:
        raise UserError("\n".join([*faults.values(), *others]))
    return config, given


def load_config(*paths: Path) -> Config:
    """Read and check a recipe file; of several, a later one wins over those before it.

    Raises:
        UserError: With every fault found.
    """
    return parse_command_line([f"--config={path}" for path in paths], prog="tacit")[0]


def config_to_yaml(config: Config) -> str:
    """Return the recipe, every field written out, that ``load_config`` reads back to an equal configuration."""
    plain = dataclasses.asdict(config)
    plain["optim"]["betas"] = list(config.optim.betas)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _build_parser(prog: str, switches: Mapping[str, str]) -> ArgumentParser:
    """Return a parser that writes the help; values never go through it, for it would call what a value names."""
    parser = ArgumentParser(prog=prog, exit_on_error=False, print_config=None)
    parser.add_argument(
        "--config",
        action=ActionConfigFile,
        help="Recipe (YAML). Settings on the command line win over it, wherever they stand.",
    )
    for name, text in switches.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    parser.add_class_arguments(Config, None)
    hide_what_is_not_read(parser)
    return parser


def hide_what_is_not_read(parser: ArgumentParser) -> None:
    """Take out of the help what jsonargparse adds to options, and no command reads: appending, files of a section."""
    for action in parser._actions:  # argparse has no public way to list its options
        action.option_strings = [option for option in action.option_strings if not option.endswith("+")]
        if action.metavar == "CONFIG":
            action.help = argparse.SUPPRESS


def _split_arguments(
    argv: Sequence[str], switches: Mapping[str, str]
) -> tuple[list[str], list[tuple[str, str]], frozenset[str]]:
    """Return recipe paths, (dotted name, text) overrides and switches, each in the order given."""
    recipe_paths: list[str] = []
    overrides: list[tuple[str, str]] = []
    given = set()
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--"):
            raise UserError(f"{argument}: not an option; settings are written --section.field value.")
        if name in switches and not equals:
            given.add(name)
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                hint = "" if name in (*switches, "config") else _hint(name, [*FIELD_TYPES, *switches])
                raise UserError(f"--{name} has no value; write --{name} VALUE.{hint}")
            value = rest.pop(0)
        if name == "config":
            recipe_paths.append(value)
        else:
            overrides.append((name, value))
    return recipe_paths, overrides, frozenset(given)


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested sections into dotted names; free-form settings stay whole."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        is_section = any(known.startswith(f"{name}.") for known in FIELD_TYPES)
        if is_section and value is None:
            continue  # a section all of whose lines are commented out
        if isinstance(value, dict) and name != FREE_FORM:
            flat.update(_flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def _leaves(section: type = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(section):
        if dataclasses.is_dataclass(field.type):
            yield from _leaves(field.type, f"{prefix}{field.name}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{field.name}", field.type


FIELD_TYPES: dict[str, Any] = dict(_leaves())


def _hint(name: str, known: Sequence[str]) -> str:
    """Return the nearest known name, compared as a whole and by its last part alone."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    if not near:
        last = {dotted.rsplit(".", 1)[-1]: dotted for dotted in known}
        near = [last[leaf] for leaf in difflib.get_close_matches(name.rsplit(".", 1)[-1], last, n=1, cutoff=0.6)]
    return f" Did you mean {near[0]}?" if near else " `--help` lists the settings."


def _read_settings(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings that can be read, in the type they have, and what is wrong with each other one, by name."""
    values: dict[str, Any] = {}
    faults = {}
    for name, value in settings.items():
        try:
            if name in FIELD_TYPES:
                values[name] = as_type(value, FIELD_TYPES[name])
            elif name.startswith(f"{FREE_FORM}."):
                values[FREE_FORM] = _with_leaf(values.get(FREE_FORM), name.split(".")[2:], value)
            else:
                faults[name] = f"{name}: unknown setting.{_hint(name, list(FIELD_TYPES))}"
        except ValueError as error:
            faults[name] = f"{name} ({value!r}) {error}; correct it."
    return values, faults


def _with_leaf(tree: Any, path: Sequence[str], value: Any) -> dict[str, Any]:
    """Return a tree of free-form settings with one more set, whatever stood in its place."""
    branch, *rest = path
    kept = tree if isinstance(tree, dict) else {}
    leaf = from_text(value) if isinstance(value, str) else value
    return {**kept, branch: _with_leaf(kept.get(branch), rest, value) if rest else leaf}


def _build(section: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """Return a section of settings by dotted name; one that is not named keeps its default."""
    parts = {}
    for field in dataclasses.fields(section):
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(field.type):
            parts[field.name] = _build(field.type, values, f"{name}.")  # type: ignore[arg-type]
        elif name in values:
            parts[field.name] = values[name]
    return section(**parts)
