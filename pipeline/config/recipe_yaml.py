"""Reads YAML as a recipe needs it: plain values, each setting once, and never more than the file itself holds."""

from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from pipeline.errors import UserError

MOST_CHARACTERS = 1 << 16  # a recipe has some thousand; a file of data named by mistake would take minutes
MOST_LEVELS = 50


class _Loader(yaml.SafeLoader):
    """Makes plain values only, and refuses what would grow without bound or lose a setting silently."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        mark: Any = event.start_mark
        self.depth += 1
        if self.depth > MOST_LEVELS:
            raise ComposerError(None, None, f"nested deeper than {MOST_LEVELS} levels", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(event, yaml.AliasEvent) and not isinstance(node, yaml.ScalarNode):
            # A few of these inside each other stand for billions of values.
            raise ComposerError(None, None, f"*{event.anchor} stands for more than one value", mark)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        raise ConstructorError(None, None, f"{key.value} stands here again", key.start_mark)
                    seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep=deep)
        except (ArithmeticError, AttributeError, LookupError, ValueError) as error:  # 2001-99-99, !!bool x, 0x_
            raise ConstructorError(None, None, "not the value that it looks like", node.start_mark) from error
        if isinstance(value, int) and abs(value) >> 63:
            raise ConstructorError(None, None, "a whole number of more than 64 bits", node.start_mark)
        return value


def read_recipe(path: str) -> dict[Any, Any]:
    """Read a recipe file.

    Raises:
        UserError: If it cannot be read, or is no YAML mapping.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except UnicodeDecodeError as error:
        raise UserError(f"--config {path}: not UTF-8 text; save the recipe as UTF-8.") from error
    except (OSError, ValueError) as error:  # a ValueError is a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--config {path}: cannot be read ({reason}); check the path.") from error
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"--config {path}: longer than {MOST_CHARACTERS:,} characters; name a recipe.")
    try:
        loaded = read_yaml(text)
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f":{place.line + 1}" if place else ""
        raise UserError(f"{path}{line}: not valid YAML ({problem_of(error)}); correct that line.") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UserError(f"--config {path}: holds a {type(loaded).__name__}; a recipe is sections of settings.")
    return loaded


def read_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        yaml.YAMLError: If it is none.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def problem_of(error: yaml.YAMLError) -> str:
    """Return what is wrong with a YAML text, in one line."""
    return " ".join(str(getattr(error, "problem", None) or error).split())
