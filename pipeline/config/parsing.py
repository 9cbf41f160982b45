"""Reads a configuration from recipe and command line. Every mistake is told at once, with the nearest known name."""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_origin

import yaml
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, set_parsing_settings

from pipeline.config.checks import check
from pipeline.config.schema import Config
from pipeline.errors import UserError

set_parsing_settings(docstring_parse_attribute_docstrings=True)

FREE_FORM = ("model.from_scratch",)  # its keys are the architecture's own, so they cannot be listed here


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
    parser = _build_parser(prog, switches)
    if any(argument in ("-h", "--help") for argument in argv):
        parser.print_help()
        raise SystemExit(0)
    recipe_paths, overrides, given = _split_arguments(argv, switches)
    settings: dict[str, Any] = {}
    for path in recipe_paths:
        settings.update(_flatten(_load_yaml(path)))
    faults = _faults_of_settings(parser, [*settings.items(), *overrides])
    sound = {name: value for name, value in [*settings.items(), *overrides] if name not in faults}
    config = _instantiate(parser, sound)
    if "print_config" in given and not faults:
        print(config_to_yaml(config), end="")
        raise SystemExit(0)
    # A setting that could not be read stands at its default here; what that breaks is not the user's second mistake.
    others = [fault for fault in check(config) if not any(name in fault for name in faults)]
    if faults or others:
        raise UserError("\n".join([*faults.values(), *others]))
    return config, given


def load_config(path: Path) -> Config:
    """Read and check a recipe file.

    Raises:
        UserError: With every fault found.
    """
    return parse_command_line([f"--config={path}"], prog="tacit")[0]


def config_to_yaml(config: Config) -> str:
    """Return the recipe, every field written out, that ``load_config`` reads back to an equal configuration."""
    plain = dataclasses.asdict(config)
    plain["optim"]["betas"] = list(config.optim.betas)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _build_parser(prog: str, switches: Mapping[str, str]) -> ArgumentParser:
    parser = ArgumentParser(prog=prog, exit_on_error=False)
    parser.add_argument(
        "--config",
        action=ActionConfigFile,
        help="Recipe (YAML). Settings on the command line win over it, wherever they stand.",
    )
    for name, text in switches.items():
        if name != "print_config":  # comes with --config
            parser.add_argument(f"--{name}", action="store_true", help=text)
    parser.add_class_arguments(Config, None)
    return parser


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


def _load_yaml(path: str) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror}); check the path.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--config {path}: not UTF-8 text; save the recipe as UTF-8.") from error
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f":{place.line + 1}" if place else ""
        raise UserError(
            f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)}); correct that line."
        ) from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UserError(f"--config {path}: holds a {type(loaded).__name__}; a recipe is sections of settings.")
    return loaded


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested sections into dotted names; free-form settings stay whole."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        is_section = any(known.startswith(f"{name}.") for known in FIELD_TYPES)
        if is_section and value is None:
            continue  # a section all of whose lines are commented out
        if isinstance(value, dict) and name not in FREE_FORM:
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


def _is_known(name: str) -> bool:
    return name in FIELD_TYPES or any(name.startswith(f"{free}.") for free in FREE_FORM)


def _takes_text(name: str) -> bool:
    """Whether a setting is text or a choice of words, so that ``no`` or ``123`` must not turn into something else."""
    field_type = FIELD_TYPES.get(name)
    return field_type is str or get_origin(field_type) is Literal


def _hint(name: str, known: Sequence[str]) -> str:
    """Return the nearest known name, compared as a whole and by its last part alone."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    if not near:
        last = {dotted.rsplit(".", 1)[-1]: dotted for dotted in known}
        near = [last[leaf] for leaf in difflib.get_close_matches(name.rsplit(".", 1)[-1], last, n=1, cutoff=0.6)]
    return f" Did you mean {near[0]}?" if near else " `--help` lists the settings."


def _faults_of_settings(parser: ArgumentParser, settings: Sequence[tuple[str, Any]]) -> dict[str, str]:
    """Return what is wrong with each setting, by name."""
    try:
        if all(_is_known(name) for name, _ in settings):
            parser.parse_object(_nest(dict(settings)))
            return {}
    except (ArgumentError, TypeError, ValueError):
        pass  # try each setting alone, which takes longer, so that all faults are told together
    faults = {}
    for name, value in settings:
        if not _is_known(name):
            faults[name] = f"{name}: unknown setting.{_hint(name, list(FIELD_TYPES))}"
            continue
        try:
            parser.parse_object(_nest({name: value}))
        except (ArgumentError, TypeError, ValueError) as error:
            reason = re.sub(r"\s+", " ", str(error).split("\n", 1)[-1]).strip()
            faults[name] = f"{name} ({value!r}): {reason}"
    return faults


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *sections, leaf = name.split(".")
        branch = tree
        for section in sections:
            existing = branch.get(section)
            if not isinstance(existing, dict):
                branch[section] = {}
            branch = branch[section]
        branch[leaf] = value if _takes_text(name) else _scalar(value)
    return tree


def _scalar(value: Any) -> Any:
    """Read a text as YAML would, and as a number where only YAML 1.1 does not (``3e-4``, ``inf``)."""
    if not isinstance(value, str):
        return value
    try:
        return float(value) if re.fullmatch(r"[+-]?([\d.]+[eE][+-]?\d+|inf)", value) else yaml.safe_load(value)
    except (ValueError, yaml.YAMLError):
        return value


def _instantiate(parser: ArgumentParser, settings: Mapping[str, Any]) -> Config:
    namespace = parser.instantiate(parser.parse_object(_nest(settings)))
    return Config(**{field.name: getattr(namespace, field.name) for field in dataclasses.fields(Config)})
