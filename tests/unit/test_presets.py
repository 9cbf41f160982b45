"""Presets: short recipes that are laid over others."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from pipeline.config import Config
from pipeline.config.parsing import parse_command_line
from pipeline.schedule import fixed_schedule
from tests.shipped_recipes import PAPER_RECIPES, RECIPES
from tests.tiny import ROOT

FROM_SCRATCH = [path for path in RECIPES if "\n  from_scratch:" in path.read_text()]
KINDS = {"no_cot": "no_cot", "explicit_cot": "explicit_cot", "faithful": "fixed", "corrected": "adaptive"}
MEANT_FOR = {
    "no_cot": RECIPES,
    "explicit_cot": RECIPES,
    "faithful": [path for path in RECIPES if path not in FROM_SCRATCH],  # of pretrained models, as its head says
    "corrected": PAPER_RECIPES,
    "chat": [path for path in RECIPES if path.stem in ("your_data", "smollm2_gsm8k_cpu")],  # for models for chats
}
PAIRS = [(preset, recipe) for preset, recipes in MEANT_FOR.items() for recipe in recipes]


@cache
def read(recipe: Path, preset: str | None = None, *overrides: str) -> Config:
    files = [f"--config={recipe}"]
    if preset is not None:
        files.append(f"--config={ROOT / 'recipes' / 'presets' / f'{preset}.yaml'}")
    return parse_command_line([*files, *overrides], "tacit train")[0]


def test_every_preset_is_meant_for_something() -> None:
    assert {path.stem for path in (ROOT / "recipes" / "presets").iterdir()} == set(MEANT_FOR)


@pytest.mark.parametrize(("preset", "recipe"), PAIRS, ids=[f"{preset}-{recipe.stem}" for preset, recipe in PAIRS])
def test_a_preset_lies_over_every_recipe_that_it_is_meant_for(preset: str, recipe: Path) -> None:
    alone, both = read(recipe), read(recipe, preset)
    assert both.schedule.kind == KINDS.get(preset, alone.schedule.kind)
    # What a recipe says of data, model and machine is none of a preset's business.
    assert (both.data, both.model, both.lora, both.engine) == (alone.data, alone.model, alone.lora, alone.engine)
    assert both.optim.lr == alone.optim.lr
    if preset == "chat":
        assert replace(both, format=alone.format) == alone
        assert both.format.question == "{chat}"
    if preset == "faithful" and recipe in PAPER_RECIPES:
        assert replace(both, optim=alone.optim) == alone
        assert both.optim == replace(alone.optim, optimizer="adamw")  # QLoRA has another one


@pytest.mark.parametrize("preset", ["no_cot", "explicit_cot"])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_baseline_has_one_stage_of_exactly_the_steps_asked_for(preset: str, recipe: Path) -> None:
    config = read(recipe, preset)
    schedule = fixed_schedule(replace(config.schedule, max_steps=12345), steps_per_epoch=100, longest_cot=75)
    assert (len(schedule.stages), schedule.num_steps) == (1, 12345)
    assert schedule.stages[0].removes_all == (preset == "no_cot")
    assert config.run.keep_stages == []


@pytest.mark.parametrize("preset", ["faithful", "corrected", "chat"])
def test_every_setting_of_a_preset_is_explained_beside_it(preset: str) -> None:
    lines = (ROOT / "recipes" / "presets" / f"{preset}.yaml").read_text().splitlines()
    settings = [line for line in lines if re.match(r" +\w+: \S", line)]
    # A comment may speak for the lines of the same sentence that follow it.
    alone = {"cot", "second_separator", "answer", "end", "eps", "weight_decay", "window", "min_steps"}
    unexplained = {line.split(":")[0].strip() for line in settings if "  #" not in line}
    assert settings and unexplained <= alone
