"""What is shipped holds together: recipes and DeepSpeed files are read, the README names only what is there."""

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.cli.main import COMMANDS, main
from pipeline.config import EngineConfig, load_config
from pipeline.config.parsing import FIELD_TYPES
from pipeline.ds_config import load_ds_config
from pipeline.schedule import fixed_schedule
from tests.shipped_recipes import PAPER_RECIPES, RECIPES
from tests.tiny import ROOT

pytestmark = pytest.mark.usefixtures("own_home")

README = (ROOT / "README.md").read_text()
# Options of commands that have no recipe.
OTHER_OPTIONS = {"config", "resume", "rehearse", "output", "print_config", "help", "model", "data"}
OTHER_OPTIONS |= {
    "input",
    "output_dir",
    "digits",
    "num_train",
    "num_validation",
    "gpus",
    "lengths",
    "completion",
    "push",
    "watch",
}
# Weights of the published models.
NUM_WEIGHTS = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "phi-3-mini": 3_821_079_552,
    "mistral-7b": 7_241_732_096,
}
# Which of them a recipe trains, by a part of its name; rows as long as its data has them at the most.
SHAPES = {
    "mistral_7b": ("mistral-7b", "378000,61,80,9"),
    "phi3_mini": ("phi-3-mini", "378000,61,80,9"),
    "gpt2_medium": ("gpt2-medium", "378000,61,80,9"),
    "gsm8k_gpt2_small": ("gpt2", "378000,61,80,9"),
    "11x11": ("gpt2", "808000,25,369,27"),
    "9x9": ("gpt2", "808000,21,247,23"),
    "7x7": ("gpt2", "808000,17,149,19"),
    "5x5": ("gpt2", "808000,13,75,15"),
    "4x4": ("gpt2", "808000,11,47,13"),
}
LAUNCHER_OPTIONS = {"num_gpus", "no_local_rank", "module", "rm"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_is_read_and_names_a_deepspeed_file_that_is_there(path: Path) -> None:
    config = load_config(path)
    assert load_ds_config(config.engine)["zero_optimization"]


@pytest.mark.parametrize("path", PAPER_RECIPES, ids=lambda path: path.name)
def test_a_recipe_of_the_paper_says_where_it_comes_from_and_what_it_is_to_reach(path: Path) -> None:
    head = path.read_text().split("\ndata:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert re.search(r"^# Source: arXiv:2405\.14838, section", head, re.MULTILINE)
    assert "# The paper's accuracy" in head and "# Stated there: " in head and "# Length: " in head


@pytest.mark.parametrize("name", sorted(NUM_WEIGHTS))
def test_an_architecture_is_the_published_one(name: str) -> None:
    folder = ROOT / "recipes" / "architectures" / name
    config = AutoConfig.from_pretrained(folder)
    # Transformers keeps a key that it does not know, and nothing comes of it.
    keys = json.loads((folder / "config.json").read_text()).keys()
    assert [key for key in keys if not hasattr(type(config)(), key)] == []
    with torch.device("meta"):
        assert AutoModelForCausalLM.from_config(config).num_parameters() == NUM_WEIGHTS[name]


def test_every_architecture_is_tested() -> None:
    assert {path.name for path in (ROOT / "recipes" / "architectures").iterdir()} == set(NUM_WEIGHTS)


def plan(capsys: pytest.CaptureFixture[str], recipe: Path, architecture: Path, num_gpus: int) -> dict[str, Any]:
    lengths = next(lengths for part, (_, lengths) in SHAPES.items() if part in recipe.stem)
    arguments = ["--config", str(recipe), "--model.name_or_path", str(architecture), "--lengths", lengths]
    assert main(["plan", *arguments, "--gpus", str(num_gpus), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("recipe", PAPER_RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_the_paper_plans_as_its_head_says(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = next(name for part, (name, _) in SHAPES.items() if part in recipe.stem)
    config = json.loads((ROOT / "recipes" / "architectures" / name / "config.json").read_text())
    # Two layers take a tenth of the time, and stages and steps do not depend on them.
    config["n_layer" if config["model_type"] == "gpt2" else "num_hidden_layers"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    planned = plan(capsys, recipe, tmp_path, num_gpus=8)

    head = recipe.read_text().replace("\n# ", " ")
    if "11x11" in recipe.stem:
        assert "= 1,013,076 steps" in head and planned["fastest"]["steps"] == 1_013_076
        assert planned["stages"][-1]["num_removed"] == 320
        return
    removals, after, total = map(float, re.findall(r" ([\d.]+) \+ ([\d.]+) = (\d+)\.", head)[0])
    assert removals + after == total
    per_epoch, stages = planned["steps_per_epoch"], planned["stages"]
    assert stages[-1]["removes_all"]
    # A token stays for a whole number of steps, so the epochs are met nearly.
    assert sum(stage["max_steps"] for stage in stages[:-1]) / per_epoch == pytest.approx(removals, abs=0.01)
    assert stages[-1]["max_steps"] / per_epoch == pytest.approx(after, abs=0.01)


FROM_SCRATCH = ("demo", "multiplication_3x3_cpu", "multiplication_4x4_cpu", "ablations_3x2_cpu")
SMOLLM2 = ("smollm2_gsm8k_cpu", "gsm8k_smollm2", "gsm8k_smollm2_cpu")


@pytest.mark.parametrize("name", [*FROM_SCRATCH, *SMOLLM2, "your_data"])
def test_the_other_recipes_plan_as_well(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 1000, **sizes}))
    own_model = [] if name in FROM_SCRATCH else ["--model.name_or_path", str(tmp_path)]
    arguments = ["--config", str(ROOT / "recipes" / f"{name}.yaml"), *own_model, "--lengths", "1000,14,12,3"]
    assert main(["plan", *arguments, "--gpus", "2", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert len(planned["stages"]) >= 2 and planned["peak_bytes"] > 0


def test_every_recipe_is_planned() -> None:
    others = {path.stem for path in (ROOT / "recipes").glob("*.yaml")} - {path.stem for path in PAPER_RECIPES}
    assert others == {*FROM_SCRATCH, *SMOLLM2, "your_data", "graph_reasoning"}


def test_the_recipe_for_graphs_holds_the_stages_that_its_head_says() -> None:
    config, steps_per_epoch = load_config(ROOT / "recipes" / "graph_reasoning.yaml"), math.ceil(17_886 / 128)
    schedule = fixed_schedule(config.schedule, steps_per_epoch, longest_cot=6)
    assert config.optim.global_batch_size == 128 and config.removal.unit == "step"
    lengths = [after.first_step - stage.first_step for stage, after in pairwise(schedule.stages)]
    assert [stage.num_removed for stage in schedule.stages] == [0, 1, 2, 3, 4, 5, 6]
    assert lengths == [5 * steps_per_epoch] * 6 and schedule.num_steps == 50 * steps_per_epoch


def test_training_every_weight_of_mistral_needs_more_than_one_24_gb_card(capsys: pytest.CaptureFixture[str]) -> None:
    recipe, architecture = (ROOT / "recipes" / name for name in ("gsm8k_mistral_7b.yaml", "architectures/mistral-7b"))
    planned = plan(capsys, recipe, architecture, num_gpus=1)
    assert planned["num_trained"] == planned["num_weights"] == NUM_WEIGHTS["mistral-7b"]
    # 2 bytes a weight for itself, 2 for its gradient, 12 for master and moments: more than one card of any size here.
    assert planned["peak_bytes"] > 16 * planned["num_weights"]
    assert [card["fits"] for card in planned["cards"]] == [False, False, False]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_gpus", "card"),
    [
        ("gsm8k_mistral_7b_qlora_24gb", 1, 24),
        ("gsm8k_mistral_7b_lora_24gb", 1, 24),
        ("gsm8k_phi3_mini", 8, 80),
        ("gsm8k_mistral_7b", 8, 80),
    ],
)
def test_a_large_recipe_fits_the_cards_that_it_is_written_for(
    capsys: pytest.CaptureFixture[str], name: str, num_gpus: int, card: int
) -> None:
    shape = "phi-3-mini" if "phi3" in name else "mistral-7b"
    planned = plan(capsys, ROOT / "recipes" / f"{name}.yaml", ROOT / "recipes" / "architectures" / shape, num_gpus)
    assert [fit["fits"] for fit in planned["cards"] if fit["gib"] == card] == [True]


@pytest.mark.parametrize("recipe", [path for path in PAPER_RECIPES if "gpt2" in path.stem], ids=lambda path: path.stem)
def test_the_recipes_for_gpt2_fit_a_24_gb_card(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = "gpt2-medium" if "medium" in recipe.stem else "gpt2"
    planned = plan(capsys, recipe, ROOT / "recipes" / "architectures" / shape, num_gpus=1)
    assert planned["num_weights"] == NUM_WEIGHTS[shape]
    assert [card["fits"] for card in planned["cards"]] == [True, True, True]


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
