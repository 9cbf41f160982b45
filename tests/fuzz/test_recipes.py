"""Whatever stands in a recipe: a configuration, or mistakes in plain words; nothing that it names is ever run."""

import math
import sys
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Config, config_to_yaml, load_config, parse_command_line
from pipeline.config.parsing import FIELD_TYPES
from pipeline.config.recipe_yaml import MOST_CHARACTERS
from pipeline.errors import UserError
from tests.fuzz.cases import damaged, fuzz
from tests.tiny import ROOT

RECIPES = st.sampled_from([path.read_bytes() for path in sorted((ROOT / "recipes").rglob("*.yaml"))])
LEAST = {
    "data.train": "train.txt",
    "data.validation": "validation.txt",
    "model.name_or_path": "gpt2",
    "run.output_dir": "runs/test",
}
NAMES = st.sampled_from(
    [*FIELD_TYPES, "model.from_scratch.x", "model.from_scratch.x.y", "optim", "optim.lrr", "", ".", "a"]
)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=4)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
TEXTS = st.text(max_size=12) | st.sampled_from(
    [
        "1e3",
        ".inf",
        "nan",
        "[1, 2]",
        "{a: 1}",
        "!!bool x",
        "&a [*a]",
        "'[x'",
        "0x" + "f" * 5000,
        "[" * 999,
        "no",
        "~",
        "=",
        "<<: 1",
    ]
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes") / "recipe.yaml"


def loaded(path: Path, content: bytes | str) -> Config | None:
    """Return the configuration; None where the user is told a mistake."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        return load_config(path)
    except UserError as error:
        assert all(line.strip() for line in str(error).split("\n"))
        assert len(str(error)) < 100_000
        return None


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        branch = tree
        *sections, leaf = name.split(".")
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[leaf] = value
    return tree


def of_type(wanted: Any) -> st.SearchStrategy[Any]:
    """Return values that a setting of this type may have, sensible or not."""
    kind, parts = get_origin(wanted) or wanted, get_args(wanted)
    if kind is UnionType:
        return st.none() | of_type(parts[0])
    if kind is Literal:
        return st.sampled_from(parts)
    if kind is list:
        return st.lists(of_type(parts[0]), max_size=3)
    if kind is tuple:
        return st.tuples(*map(of_type, parts)).map(list)
    if kind is dict:
        return st.dictionaries(st.text(max_size=4), VALUES, max_size=3).map(
            lambda fields: {"model_type": "gpt2", **fields}
        )
    plain = {str: st.text(max_size=12), bool: st.booleans(), int: st.integers(0, 10**6), float: st.floats(0, math.inf)}
    return plain[kind]


@fuzz
@given(damaged(RECIPES))
def test_any_file_is_a_recipe_or_a_mistake(path: Path, content: bytes) -> None:
    loaded(path, content)


@fuzz
@given(VALUES | st.dictionaries(NAMES, VALUES, max_size=5) | st.dictionaries(NAMES, VALUES, max_size=5).map(dict))
def test_any_values_are_a_recipe_or_a_mistake(path: Path, document: Any) -> None:
    loaded(path, yaml.safe_dump(document))


@fuzz
@given(st.lists(st.tuples(NAMES, TEXTS), max_size=4))
def test_any_text_is_a_setting_or_a_mistake(overrides: list[tuple[str, str]]) -> None:
    argv = [f"--{name}={text}" for name, text in [*LEAST.items(), *overrides]]
    try:
        config, _ = parse_command_line(argv, "tacit train")
    except UserError as error:
        assert all(line.strip() for line in str(error).split("\n"))
    else:
        assert isinstance(config, Config)


@fuzz
@given(st.data())
def test_every_setting_is_written_so_that_it_reads_back(path: Path, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(FIELD_TYPES)), max_size=4, unique=True))
    settings = {**LEAST, **{name: data.draw(of_type(FIELD_TYPES[name]), name) for name in names}}
    if settings.get("model.from_scratch") is not None:
        settings |= {"model.name_or_path": "", "model.tokenizer": "words"}
    config = loaded(path, yaml.safe_dump(nested(settings)))
    if config is not None:
        text = config_to_yaml(config)
        again = loaded(path, text)
        assert again is not None and config_to_yaml(again) == text
        assert again == config or ".nan" in text  # which equals nothing


BOMB = "\n".join(
    ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)), "optim: {lr: *a29}"]
)
SECTIONS_BOMB = BOMB.replace("[x, x]", "{x: 1}").replace("[", "{b: [").replace("]", "]}")
HOSTILE = {
    "lists of lists of lists": (BOMB, "stands for more than one value"),
    "sections of sections": (SECTIONS_BOMB, "stands for more than one value"),
    "itself": ("optim: &a\n  lr: *a\n", "stands for more than one value"),
    "merged with itself": ("optim: &a\n  <<: *a\n", "stands for more than one value"),
    "brackets": ("[" * 5000, "nested deeper"),
    "braces": ("{" * 5000, "nested deeper"),
    "dashes": ("- " * 5000, "nested deeper"),
    "keys": ("? " * 5000, "nested deeper"),
    "call": ("optim: !!python/object/apply:os.system ['touch CANARY']\n", "not valid YAML"),
    "new": ("optim: !!python/object/new:pathlib.Path ['CANARY']\n", "not valid YAML"),
    "name": ("optim: !!python/name:os.system\n", "not valid YAML"),
    "module": ("optim: !!python/module:os\n", "not valid YAML"),
    "tuple": ("optim: !!python/tuple [1]\n", "not valid YAML"),
    "own tag": ("optim: !call {x: 1}\n", "not valid YAML"),
    "the tag's long form": ("%TAG ! tag:yaml.org,2002:python/\n---\noptim: !name:os.system\n", "not valid YAML"),
    "no date": ("run: {output_dir: 2001-99-99}", "not the value that it looks like"),
    "no number": ("optim: {lr: !!float x}", "not the value that it looks like"),
    "no truth": ("optim: {reset_at_stage: !!bool x}", "not the value that it looks like"),
    "no time": ("optim: {lr: !!timestamp x}", "not the value that it looks like"),
    "many digits": ("run: {seed: " + "9" * 5000 + "}", "not the value that it looks like"),
    "many hexadecimal digits": ("run: {seed: 0x" + "f" * 5000 + "}", "more than 64 bits"),
    "a setting twice": ("optim:\n  lr: 1\n  lr: 2\n", ":3: not valid YAML (lr stands here again)"),
    "a section twice": ("optim:\n  lr: 1\nrun:\n  seed: 1\noptim:\n  eps: 1\n", ":5: not valid YAML (optim stands"),
    "two documents": ("optim: {lr: 1}\n---\noptim: {lr: 2}\n", "not valid YAML"),
    "a list as name": ("? [a, b]\n: 1\n", "not valid YAML"),
    "null character": ("optim: {lr: \x00}", "not valid YAML"),
    "a data file": ('[{"question": "q"}]\n' + " " * MOST_CHARACTERS, "longer than"),
    "a call in free settings": (
        "model: {from_scratch: {model_type: gpt2, x: {class_path: os.system, init_args: {command: 'touch CANARY'}}}}",
        "data.train is not set",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_recipes_are_refused_in_one_line_each(tmp_path: Path, name: str) -> None:
    content, says = HOSTILE[name]
    canary = tmp_path / "canary"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(content.replace("CANARY", str(canary)))
    with pytest.raises(UserError) as error:
        load_config(recipe)
    assert says in str(error.value)
    assert not canary.exists()


@pytest.mark.parametrize("shape", ["plain", "in a list", "as text", "on the command line"])
def test_nothing_that_a_setting_names_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str) -> None:
    (tmp_path / "tacit_canary.py").write_text("def call(): raise SystemExit('called')\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = "{class_path: tacit_canary.call}"
    values = {"plain": yaml.safe_load(text), "in a list": [yaml.safe_load(text)], "as text": text}
    recipe = tmp_path / "recipe.yaml"
    for name in (*FIELD_TYPES, "model.from_scratch.x"):
        settings = {**LEAST, name: values[shape]} if shape in values else LEAST
        recipe.write_text(yaml.safe_dump(nested(settings)))
        override = [] if shape in values else [f"--{name}={text}"]
        try:
            config, _ = parse_command_line([f"--config={recipe}", *override], "tacit train")
        except UserError:
            continue
        assert isinstance(config, Config)
    assert "tacit_canary" not in sys.modules
