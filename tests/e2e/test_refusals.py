"""What cannot run is refused before anything is written, with the field to change."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.train import train
from tests.tiny import RECIPE, tiny_config

SHORT = {**RECIPE["model"]["from_scratch"], "n_positions": 19}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"engine__micro_batch_tokens": 10}, r"engine.micro_batch_tokens \(10\) .* \(20 tokens\)"),
        ({"model__from_scratch": SHORT}, "takes 20 positions, the model has 19"),
        ({"model__from_scratch": {"model_type": "gtp2"}}, "model.from_scratch.model_type .*gtp2"),
        ({"model__from_scratch": {"model_type": "gpt2", "n_layers": 2}}, "model.from_scratch.n_layers"),
        ({"model__from_scratch": {"model_type": "gpt2", "vocab_size": 5}}, "tokens, the model only 5"),
        ({"model__tokenizer": "no/such/folder"}, "model.tokenizer .*no/such/folder"),
        ({"model__from_scratch": None, "model__name_or_path": "no/such/model"}, "no/such/model"),
        ({"engine__deepspeed": "no_such.json"}, "engine.deepspeed .*no_such.json"),
        ({"data__validation": "train"}, "of its questions are training questions too"),
        ({"format__first_separator": " ? "}, "not in the tokenizer's vocabulary"),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path: Path, overrides: dict[str, Any], message: str) -> None:
    if overrides.get("data__validation") == "train":
        overrides = {"data__validation": str(tmp_path / "train.txt")}
    config = tiny_config(tmp_path, **overrides)
    with pytest.raises(UserError, match=message):
        train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["train_batch_size", "gradient_clipping", "optimizer", "scheduler"])
def test_a_deepspeed_file_must_not_say_what_the_recipe_says(tmp_path: Path, key: str) -> None:
    (tmp_path / "ds.json").write_text(f'{{"zero_optimization": {{"stage": 1}}, "{key}": 1}}')
    with pytest.raises(UserError, match=f"sets {key}; take it out"):
        train(tiny_config(tmp_path, engine__deepspeed=str(tmp_path / "ds.json")))
