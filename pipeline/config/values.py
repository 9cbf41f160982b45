"""Turns what stands in a recipe or on the command line into the type that a setting has."""

import re
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from pipeline.config.recipe_yaml import problem_of, read_yaml

EXPONENT = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)[eE][+-]?\d+|inf)")  # a number, but text to YAML 1.1: 3e-4
UNIONS = (UnionType, Union)  # `A | None`, and what jsonargparse makes of it
IN_WORDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number", dict: "settings by name"}


def as_type(value: Any, wanted: Any) -> Any:
    """Return a value as a setting has it; nothing is imported or called for it, whatever it names.

    Args:
        value: As YAML has it; text for anything but text is read as YAML once more, as from the command line.
        wanted: Type of the setting: one of ``IN_WORDS``, a choice of words, a list, a tuple, or one of these or None.

    Raises:
        ValueError: Saying what it must be.
    """
    try:
        return _converted(value, wanted)
    except TypeError as error:
        raise ValueError(f"must be {_in_words(wanted)}") from error


def _converted(value: Any, wanted: Any) -> Any:
    kind, parts = get_origin(wanted) or wanted, get_args(wanted)
    if isinstance(value, str) and kind not in (str, Literal):
        value = from_text(value)
    if kind in UNIONS:
        return None if value is None else _converted(value, parts[0])
    if kind is Literal and isinstance(value, str) and value in parts:
        return value
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind is dict and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return _with_exponents(value)
    if kind is list and isinstance(value, list):
        return [_converted(item, parts[0]) for item in value]
    if kind is tuple and isinstance(value, list) and len(value) == len(parts):
        return tuple(map(_converted, value, parts))
    if type(value) is kind and kind in (str, bool, int):
        return value
    raise TypeError(value)


def from_text(text: str) -> Any:
    """Read a text as YAML would, and as a number where only YAML 1.1 does not.

    Raises:
        ValueError: If it is no YAML.
    """
    if EXPONENT.fullmatch(text):
        return float(text)
    try:
        return read_yaml(text)
    except yaml.YAMLError as error:
        raise ValueError(f"is not valid YAML ({problem_of(error)})") from error


def _with_exponents(value: Any) -> Any:
    """Return a value of settings without a type of their own, with ``1e-5`` as a number."""
    if isinstance(value, dict):
        return {key: _with_exponents(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_exponents(item) for item in value]
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


def _in_words(wanted: Any) -> str:
    kind, parts = get_origin(wanted) or wanted, get_args(wanted)
    if kind in UNIONS:
        return f"{_in_words(parts[0])}, or null"
    if kind is Literal:
        return f"one of {', '.join(parts)}"
    if kind in (list, tuple):
        length = "" if kind is list else f" of {len(parts)}"
        written = "[0, 1]" if parts[0] is int else "[A, B]"
        return f"a list{length}, written {written}, each {_in_words(parts[0])}"
    return IN_WORDS[kind]
