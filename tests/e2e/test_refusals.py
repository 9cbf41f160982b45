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
        ({"model__from_scratch": {"model_type": "gpt2", "n_head": 3, "n_embd": 16}}, "model.from_scratch: .*divisible"),
        ({"model__from_scratch": {"model_type": "gpt2", "n_layer": "two"}}, "model.from_scratch: gpt2 refuses"),
        ({"model__from_scratch": {"model_type": "t5"}}, "t5 is not a causal language model"),
        ({"model__from_scratch": {"model_type": "rwkv"}}, "rwkv ignores the attention mask"),
        ({"model__attention": "flash_attention_2"}, "model.from_scratch: the model cannot be built"),
        ({"data__cache_dir": "/dev/null/cache"}, "data.cache_dir"),
        (
            {"run__keep_stages": [0, 3], "schedule__start_removed": 1, "schedule__remove_all_beyond": 2},
            r"\(\[3\]\): no stage",
        ),
        (
            {
                "run__keep_stages": [0, 2, 3],
                "schedule": {"kind": "adaptive", "adaptive": {"stops": [2, 4]}, "start_removed": 1},
            },
            r"run.keep_stages \(\[3\]\): no stage .* \(they have 1, 2, 4, 8\)",
        ),
        ({"run__keep_stages": [5]}, r"run.keep_stages \(\[5\]\): no stage .* \(they have 0, 1, 2, 3, 4\)"),
        (
            {
                "removal__keep_positions": True,
                "model__from_scratch": {"model_type": "bloom", "hidden_size": 16, "n_head": 2},
            },
            r"removal.keep_positions \(true\): bloom takes no positions",
        ),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"zero_optimization": {"stage": 7}}', "DeepSpeed refuses it"),
        ('{"zero_optimization": {"stage": 1}, "fp16": {"enabled": true}}', "sets the precision"),
        ('{"zero_optimization": {"stage": 1}, "bf16": {"enabled": true}}', "sets the precision"),
        ("[]", "must hold a JSON object"),
        ("{", "not valid JSON"),
    ],
)
def test_a_deepspeed_file_that_cannot_serve_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "ds.json").write_text(content)
    with pytest.raises(UserError, match=message):
        train(tiny_config(tmp_path, engine__deepspeed=str(tmp_path / "ds.json")))


def test_a_run_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="run.output_dir .* is not a folder"):
        train(tiny_config(tmp_path, run__output_dir=str(tmp_path / "taken" / "run")))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("run__seed", 1), ("optim__lr", 2e-3), ("removal__side", "right"), ("engine__deepspeed", "ds_configs/zero1.json")],
)
def test_a_resumed_run_keeps_its_past(tmp_path: Path, setting: str, value: Any) -> None:
    train(tiny_config(tmp_path, schedule__max_steps=2))
    before = (tmp_path / "run" / "recipe.yaml").read_text()
    changed = tiny_config(tmp_path, schedule__max_steps=4, evaluation__batch_size=2, **{setting: value})
    with pytest.raises(UserError, match=setting.replace("__", ".")) as error:
        train(changed, resume=True)
    marked = [line.split()[0] for line in str(error.value).splitlines() if line.endswith("<- keep")]
    assert marked == [setting.replace("__", ".")]  # what shapes only the steps to come may change
    assert (tmp_path / "run" / "recipe.yaml").read_text() == before
