"""Damaged checkpoints: each kind of damage to each file is seen, and the run goes on from the checkpoint before."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.checkpoint import STATE
from pipeline.manifest import MANIFEST, fault_of
from pipeline.train import train
from tests.tiny import tiny_config


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_a_bit(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def grow(content: bytes) -> bytes:
    return content + b"\0"


DAMAGES: dict[str, Callable[[bytes], bytes] | None] = {
    "cut": cut,
    "flipped": flip_a_bit,
    "grown": grow,
    "missing": None,
}


def damage(path: Path, how: str) -> bytes:
    """Damage a file; return what it was."""
    content, change = path.read_bytes(), DAMAGES[how]
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(content))
    return content


@pytest.mark.parametrize("how", ["cut", "missing"])
def test_a_damaged_checkpoint_of_an_earlier_stage_is_no_reason_to_end(tmp_path: Path, how: str) -> None:
    settings = {"run__keep_checkpoints": 1, "run__keep_stage_checkpoints": True, "evaluation__every_stages": 1}
    train(tiny_config(tmp_path, **settings, schedule__max_steps=8))
    oldest, *_ = sorted((tmp_path / "run" / "checkpoints").glob("step_*"))
    damage(oldest / STATE, how)
    train(tiny_config(tmp_path, **settings), resume=True)
    assert oldest.is_dir()


def test_every_damage_to_every_file_is_seen(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, schedule__max_steps=1))
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step_*")
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {MANIFEST, STATE, "mp_rank_00_model_states.pt", "tokenizer.json"}
    assert fault_of(checkpoint, must_list=STATE) is None
    for path in files:
        for how in DAMAGES:
            content = damage(path, how)
            assert fault_of(checkpoint, must_list=STATE) is not None, (path, how)
            path.write_bytes(content)
    assert fault_of(checkpoint, must_list=STATE) is None


@pytest.mark.parametrize("how", DAMAGES)
def test_a_run_goes_on_from_the_checkpoint_before(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny_config(tmp_path, run__checkpoint_every=1, schedule__max_steps=6)
    train(config)
    metrics = tmp_path / "run" / "metrics.jsonl"
    names = ("step", "loss", "grad_norm", "lr", "stage")

    def curve() -> list[list[float]]:
        rows = map(json.loads, metrics.read_text().splitlines())
        return [[row[name] for name in names] for row in rows if row["kind"] == "train"]

    before = curve()
    checkpoints = tmp_path / "run" / "checkpoints"
    damage(checkpoints / "step_00000006" / "engine" / "mp_rank_00_model_states.pt", how)
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        train(config, resume=True)
        damage(checkpoints / "step_00000006" / "engine" / "mp_rank_00_model_states.pt", how)
        train(config, resume=True)  # a disk that damages it again
    assert "step_00000006 is damaged (" in caplog.text and "trying the one before" in caplog.text
    assert curve() == before
    assert (checkpoints / ".step_00000006.damaged").is_dir()
    assert fault_of(checkpoints / "latest") is None and (checkpoints / "latest").resolve().name == "step_00000006"


def test_a_checkpoint_whose_manifest_lacks_the_runs_state_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(tmp_path, run__checkpoint_every=1, schedule__max_steps=2)
    train(config)
    newest = tmp_path / "run" / "checkpoints" / "step_00000002"
    listed = json.loads((newest / MANIFEST).read_text())
    del listed[STATE]
    (newest / MANIFEST).write_text(json.dumps(listed))
    assert fault_of(newest) is None
    assert fault_of(newest, must_list=STATE) == f"{MANIFEST} does not list {STATE}"
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        train(config, resume=True)
    assert f"step_00000002 is damaged ({MANIFEST} does not list {STATE}); trying the one before" in caplog.text
    assert fault_of(newest, must_list=STATE) is None  # step 2 was done again
