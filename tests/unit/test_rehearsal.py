"""A recipe in small: the same course, one step a stage, and nothing of it that needs more than a CPU."""

import dataclasses
from pathlib import Path

import pytest
from transformers import AutoConfig

from pipeline.config import load_config
from pipeline.rehearsal import in_small, shrunk
from pipeline.schedule import fixed_schedule
from tests.tiny import ROOT

ARCHITECTURES = sorted(path.parent.name for path in (ROOT / "recipes" / "architectures").glob("*/config.json"))


@pytest.mark.parametrize("name", ["multiplication_4x4_gpt2", "gsm8k_mistral_7b", "gsm8k_mistral_7b_qlora_24gb", "demo"])
def test_a_small_recipe_changes_sizes_and_no_method(name: str) -> None:
    config = load_config(ROOT / "recipes" / f"{name}.yaml")
    small = in_small(config, Path("runs/x"))
    for section in ("format", "lora", "removal"):
        assert getattr(small, section) == getattr(config, section)
    assert small.engine.deepspeed == config.engine.deepspeed
    assert small.engine.precision == config.engine.precision
    assert small.schedule.kind == config.schedule.kind
    assert small.optim.optimizer == config.optim.optimizer
    for field in ("quantization", "gradient_checkpointing", "num_positions"):
        assert getattr(small.model, field) == getattr(config.model, field)


def test_each_stage_lasts_one_step() -> None:
    small = in_small(load_config(ROOT / "recipes" / "gsm8k_mistral_7b.yaml"), Path("runs/x"))
    schedule = fixed_schedule(small.schedule, 64 // 8, longest_cot=60)
    assert [stage.first_step for stage in schedule.stages] == list(range(40))  # 0 to 39 removed, where all goes
    assert schedule.num_steps == 39 + 2


@pytest.mark.parametrize(("num_train", "batch_size", "per_epoch"), [(None, 4, 16), (None, 1, 64), (20, 8, 3)])
def test_each_stage_lasts_one_step_of_few_rows_or_small_batches(
    num_train: int | None, batch_size: int, per_epoch: int
) -> None:
    config = load_config(ROOT / "recipes" / "gsm8k_mistral_7b.yaml")
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, num_train=num_train),
        optim=dataclasses.replace(config.optim, global_batch_size=batch_size),
        schedule=dataclasses.replace(config.schedule, hold_epochs=1),
    )
    small = in_small(config, Path("runs/x"))
    schedule = fixed_schedule(small.schedule, per_epoch, longest_cot=3)
    steps = [(stage.num_removed, stage.smooths, stage.first_step) for stage in schedule.stages]
    assert steps == [(0, False, 0), (0, True, 1), (1, True, 2), (2, True, 3), (3, True, 4)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_shrunk_model_keeps_its_architecture_and_vocabulary(name: str) -> None:
    config = AutoConfig.from_pretrained(ROOT / "recipes" / "architectures" / name)
    tiny = shrunk(config)
    assert type(tiny) is type(config)
    assert (tiny.vocab_size, tiny.max_position_embeddings) == (config.vocab_size, config.max_position_embeddings)
    assert (tiny.num_hidden_layers, tiny.hidden_size, tiny.num_attention_heads) == (2, 64, 4)
    if hasattr(config, "num_key_value_heads"):
        kept = config.num_attention_heads // config.num_key_value_heads
        assert tiny.num_attention_heads // tiny.num_key_value_heads == kept
    assert config.num_hidden_layers > 2  # the original is as it was


def test_switches_that_do_not_go_with_a_rehearsal(capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.cli.main import main

    assert main(["train", "--config", str(ROOT / "recipes" / "demo.yaml"), "--rehearse", "--resume"]) == 2
    assert "--rehearse writes a folder of its own" in capsys.readouterr().err


def test_an_adaptive_course_cannot_hang() -> None:
    config = load_config(ROOT / "recipes" / "demo.yaml")
    adaptive = dataclasses.replace(config.schedule.adaptive, on_stall="back")
    small = in_small(
        dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, adaptive=adaptive)), Path("runs/x")
    )
    assert small.schedule.adaptive.on_stall == "advance" and small.schedule.adaptive.max_steps == 1
