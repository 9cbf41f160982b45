"""A run that is asked to stop, at whatever step, goes on as if it had not been."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.batching import StepBatch
from pipeline.config import Config
from pipeline.engine import Engine, StepMetrics
from pipeline.errors import Interrupted, UserError
from pipeline.train import train
from tests.tiny import RECIPE, tiny_config

DROPOUT = {**RECIPE["model"]["from_scratch"], "resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.2}
# With warm-ups longer than a stage, so that a run that goes on must know where the latest reset was.
SETTINGS = {"model__from_scratch": DROPOUT, "optim__warmup_steps": 3, "optim__reset_warmup_steps": 3}
NUM_STEPS = 14
# As tests/tiny.py has it, stages end at steps 2, 4, 6, 8 and 10, epochs at 7 and 14.


def rows(config: Config, kind: str = "train") -> list[dict[str, Any]]:
    lines = (Path(config.run.output_dir) / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def curve(config: Config) -> list[tuple[Any, ...]]:
    names = ("step", "epoch", "stage", "num_removed", "after_reset", "loss", "token_accuracy", "lr", "grad_norm")
    return [tuple(row[name] for name in names) for row in rows(config)]


def before_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], object]) -> None:
    """Let something happen while an optimizer step is done, counted from 1."""
    really = Engine.train_step

    def train_step(self: Engine, batch: StepBatch, learning_rate: float) -> StepMetrics:
        if batch.step + 1 == step:
            act()
        return really(self, batch, learning_rate)

    monkeypatch.setattr(Engine, "train_step", train_step)


def ask(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[tuple[Any, ...]], list[dict[str, Any]]]:
    config = tiny_config(tmp_path_factory.mktemp("whole"), **SETTINGS)
    train(config)
    assert len(curve(config)) == NUM_STEPS
    return curve(config), rows(config, "evaluation")


@pytest.mark.parametrize("step", range(1, NUM_STEPS))
def test_a_run_stopped_at_any_step_goes_on_bit_for_bit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: tuple[list[tuple[Any, ...]], list[dict[str, Any]]],
    step: int,
) -> None:
    config = tiny_config(tmp_path, **SETTINGS)
    number = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)[step % 3]
    with monkeypatch.context() as patched:
        before_step(patched, step, lambda: ask(number))
        with pytest.raises(Interrupted, match=f"stopped at step {step} \\({number.name}\\), and saved"):
            train(config)
    assert [row["step"] for row in rows(config)] == list(range(1, step + 1))
    train(config, resume=True)
    assert (curve(config), rows(config, "evaluation")) == uninterrupted


def test_a_repeated_signal_is_the_same_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(tmp_path)
    before_step(monkeypatch, 3, lambda: [ask(number) for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT)])
    with pytest.raises(Interrupted, match="stopped at step 3"):
        train(config)
    assert [row["step"] for row in rows(config, "checkpoint")] == [2, 3]


def test_a_stop_in_the_last_step_lets_the_run_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before_step(monkeypatch, NUM_STEPS, lambda: ask(signal.SIGTERM))
    assert train(tiny_config(tmp_path)).num_steps == NUM_STEPS


def test_signals_are_as_before_when_a_run_has_ended(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    train(tiny_config(tmp_path, schedule__max_steps=1))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before


@pytest.mark.parametrize(("name", "stops"), [("save_now", False), ("stop_now", True)])
def test_files_in_the_run_directory_ask_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stops: bool
) -> None:
    config = tiny_config(tmp_path)
    monkeypatch.setattr("pipeline.requests.SECONDS_BETWEEN_LOOKS", 0.0)
    before_step(monkeypatch, 3, (tmp_path / "run" / name).touch)
    if stops:
        with pytest.raises(Interrupted, match="stop_now"):
            train(config)
    else:
        train(config)
    assert [row["step"] for row in rows(config, "checkpoint") if row["requested"]] == [3]
    assert not (tmp_path / "run" / name).exists()


def test_the_clock_asks_for_checkpoints(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, run__checkpoint_minutes=1e-9, run__keep_checkpoints=99)
    train(config)
    saved = [row["step"] for row in rows(config, "checkpoint")]
    assert saved == list(range(1, NUM_STEPS + 1))
    assert len(list((tmp_path / "run" / "checkpoints").glob("step_*"))) == NUM_STEPS


def test_checkpoints_at_a_stages_end_can_be_kept(tmp_path: Path) -> None:
    settings = {"run__checkpoint_every": 3, "run__keep_checkpoints": 1, "run__keep_stage_checkpoints": True}
    train(tiny_config(tmp_path, **settings))
    kept = sorted(int(path.name[5:]) for path in (tmp_path / "run" / "checkpoints").glob("step_*"))
    assert kept == [2, 4, 6, 8, 14]  # a stage ends there; of 3, 9 and 12 none is left


def test_two_runs_in_one_directory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(tmp_path, schedule__max_steps=2)
    said = []

    def second() -> None:
        with pytest.raises(UserError) as refused:
            train(config, resume=True)
        said.append(str(refused.value))

    with monkeypatch.context() as patched:
        before_step(patched, 2, second)
        train(config)
    assert f"is in use by process {os.getpid()} on" in said[0]
    train(config, resume=True)


def test_other_rows_are_refused_and_moved_ones_are_not(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, schedule__max_steps=2))
    (tmp_path / "train.txt").rename(tmp_path / "moved.txt")
    moved = {"schedule__max_steps": 4, "data__train": str(tmp_path / "moved.txt")}
    lines = (tmp_path / "moved.txt").read_text().splitlines()
    train(tiny_config(tmp_path, **moved), resume=True)
    (tmp_path / "moved.txt").write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    with pytest.raises(UserError, match="data.train: the content is another one"):
        train(tiny_config(tmp_path, **moved), resume=True)


def test_a_changed_recipe_is_shown_as_a_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tiny_config(tmp_path, schedule__max_steps=2))
    with pytest.raises(UserError) as refused:
        train(tiny_config(tmp_path, schedule__max_steps=4, optim__lr=2e-3), resume=True)
    _, header, *table = str(refused.value).splitlines()
    assert header.split() == ["setting", "when", "the", "run", "began", "now"]
    assert [line.split() for line in table] == [
        ["schedule.max_steps", "2", "4"],
        ["optim.lr", "0.001", "0.002", "<-", "keep"],
    ]
    with caplog.at_level("INFO", logger="pipeline"):
        train(tiny_config(tmp_path, schedule__max_steps=4), resume=True)
    assert any(line.split() == ["schedule.max_steps", "2", "4"] for line in caplog.messages)
