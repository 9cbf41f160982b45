"""What is shipped holds together: recipes and DeepSpeed files are read, the README names only what is there."""

import json
import re
from pathlib import Path

import pytest

from pipeline.cli.main import COMMANDS
from pipeline.config import EngineConfig, load_config
from pipeline.config.parsing import FIELD_TYPES
from pipeline.ds_config import load_ds_config
from tests.tiny import ROOT

README = (ROOT / "README.md").read_text()
# Options of commands that have no recipe.
OTHER_OPTIONS = {"config", "resume", "print_config", "help", "model", "data"}
OTHER_OPTIONS |= {"input", "output_dir", "digits", "num_train", "num_validation"}
LAUNCHER_OPTIONS = {"num_gpus", "no_local_rank", "module", "rm"}


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_is_read_and_names_a_deepspeed_file_that_is_there(path: Path) -> None:
    config = load_config(path)
    assert load_ds_config(config.engine)["zero_optimization"]


@pytest.mark.parametrize("name", ["zero0", "zero1", "zero2", "zero3", "zero3_offload"])
def test_every_deepspeed_file_sets_stage_offload_and_precision_only(name: str) -> None:
    loaded = load_ds_config(EngineConfig(deepspeed=f"ds_configs/{name}.json"))
    assert loaded.keys() == {"zero_optimization", "bf16"}
    assert loaded["zero_optimization"]["stage"] == int(name[4])
    assert ("offload_optimizer" in loaded["zero_optimization"]) == name.endswith("offload")
    assert json.loads((ROOT / "ds_configs" / f"{name}.json").read_text()) == loaded


def test_the_readme_names_commands_and_options_that_exist() -> None:
    commands = set(re.findall(r"^\s*(?:`)?tacit ([a-z]+)", README, re.MULTILINE))
    assert commands and commands <= COMMANDS.keys()
    options = set(re.findall(r"--([a-z_]+(?:\.[a-z_]+)*)", README))
    assert options <= FIELD_TYPES.keys() | OTHER_OPTIONS | LAUNCHER_OPTIONS


def test_the_readme_names_files_that_exist() -> None:
    named = re.findall(r"\b((?:recipes|launchers|ds_configs|pipeline|experiments|tests)/[\w./-]*\w)", README)
    assert named
    missing = [name for name in named if not (ROOT / name).exists()]
    assert missing == []
    targets = set(re.findall(r"(?:^    |`)make ([a-z0-9-]+)", README, re.MULTILINE))
    assert targets and targets <= set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_readmes_tree_is_the_repositorys() -> None:
    tree = README.split("How the code is laid out")[1].split("\n\n")[1]
    named = set(re.findall(r"^    ([a-z_]+)/", tree, re.MULTILINE))
    assert {name for name in named if not (ROOT / name).is_dir()} == set()
    modules = {path.stem for path in (ROOT / "pipeline").glob("*.py")} | {
        path.name for path in (ROOT / "pipeline").iterdir() if (path / "__init__.py").exists()
    }
    in_tree = set(re.findall(r"[a-z_]+", tree.split("ds_configs/")[0])) - {"pipeline"}
    assert in_tree == modules - {"__init__", "__main__", "errors"}
