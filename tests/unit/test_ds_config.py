"""The DeepSpeed JSON: what it may hold, and what is said of what it may not."""

import json
from pathlib import Path

import pytest

from pipeline.config import EngineConfig
from pipeline.ds_config import check_suits_quantization, load_ds_config
from pipeline.errors import UserError


def _load(folder: Path, content: object) -> dict[str, object]:
    path = folder / "ds.json"
    path.write_text(json.dumps(content))
    return load_ds_config(EngineConfig(deepspeed=str(path)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"bf16": True}, "bf16 (true) must be a JSON object"),
        ({"zero_optimization": 3}, "zero_optimization (3) must be a JSON object"),
        ({"zero_optimization": None}, "zero_optimization (null) must be a JSON object"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": "cpu"}}, 'offload_optimizer ("cpu") must be'),
        (
            {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}},
            'offload_optimizer.device ("nvme") keeps the moments',
        ),
        ({"zero_optimisation": {"stage": 3}}, "did you mean zero_optimization?"),
        ({"lr": 0.1}, "lr is not a section that it may hold"),
        ({"train_batch_size": 8}, "sets train_batch_size; take it out, the recipe's optim.global_batch_size says it"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1}}}, "the recipe's optim.* says it"),
        ({"fp16": {"enabled": True}}, "sets the precision"),
        ({"bf16": {"enabled": True}}, "sets the precision"),
        ([1], "must hold a JSON object"),
    ],
)
def test_what_it_may_not_hold(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(UserError) as error:
        _load(tmp_path, content)
    assert message in str(error.value)
    assert all("ds.json" in line for line in str(error.value).splitlines())


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        _load(tmp_path, {"lr": 1, "train_batch_size": 8, "bf16": 1})
    assert len(str(error.value).splitlines()) == 3


def test_a_sound_one_is_read_as_it_is(tmp_path: Path) -> None:
    content = {"zero_optimization": {"stage": 3}, "bf16": {"enabled": "auto"}, "wall_clock_breakdown": True}
    assert _load(tmp_path, content) == content


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_only_zero_3_cannot_have_a_quantised_base(tmp_path: Path, stage: int, quantization: str) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
    config = EngineConfig(deepspeed=str(path))
    if stage == 3 and quantization != "none":
        with pytest.raises(UserError, match="ds_configs/zero2.json"):
            check_suits_quantization(config, quantization)
    else:
        check_suits_quantization(config, quantization)
