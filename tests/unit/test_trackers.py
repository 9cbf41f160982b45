"""Metrics reach real trackers, offline, under the same names; a tracker that fails stops nothing."""

import logging
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.trackers import Trackers, chosen_trackers

ROWS = [("train", 1, {"loss": 0.5, "mfu": None}), ("train", 2, {"loss": 0.25}), ("evaluation", 2, {"accuracy": 0.75})]


def log_rows(trackers: Trackers) -> None:
    for kind, step, fields in ROWS:
        trackers.log(kind, step, fields)
    trackers.close()


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_gets_every_number_by_kind_and_name(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    log_rows(Trackers(["tensorboard"], tmp_path, {}, num_steps_done=0))
    assert tensorboard_scalars(tmp_path / "tensorboard") == {
        "train/loss": [(1, 0.5), (2, 0.25)],
        "evaluation/accuracy": [(2, 0.75)],
    }


def test_what_a_cut_run_wrote_after_its_checkpoint_is_void(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    log_rows(Trackers(["tensorboard"], tmp_path, {}, num_steps_done=0))
    resumed = Trackers(["tensorboard"], tmp_path, {}, num_steps_done=1)
    resumed.log("train", 2, {"loss": 0.125})
    resumed.close()
    assert tensorboard_scalars(tmp_path / "tensorboard")["train/loss"] == [(1, 0.5), (2, 0.125)]


def test_a_tracker_that_fails_is_told_once_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logged, closed = [], []

    def log(numbers: dict[str, float], step: int) -> None:
        logged.append(step)
        raise OSError("no space\nleft")

    openers = {"wandb": lambda *_: (log, lambda: closed.append(True)), "trackio": lambda *_: 1 / 0}
    monkeypatch.setattr("pipeline.trackers.OPENERS", openers)
    with caplog.at_level(logging.WARNING):
        log_rows(Trackers(["wandb", "trackio"], tmp_path, {}, num_steps_done=0))
    assert logged == [1] and closed == []
    assert [record.message for record in caplog.records] == [
        "run.trackers: trackio failed (division by zero); the run goes on without it",
        "run.trackers: wandb failed (no space left); the run goes on without it",
    ]


def test_one_that_is_named_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert chosen_trackers(None) == []
    assert chosen_trackers([]) == []
    with pytest.raises(UserError, match=r"run\.trackers \(wandb\) is not installed; pip install wandb, or take it out"):
        chosen_trackers(["wandb"])


@pytest.mark.slow
def test_wandb_works_offline_and_a_resumed_run_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log_rows(Trackers(["wandb"], tmp_path, {"optim": {"lr": 1e-3}}, num_steps_done=0))
    name = (tmp_path / "tracker_id").read_text()
    log_rows(Trackers(["wandb"], tmp_path, {"optim": {"lr": 1e-3}}, num_steps_done=2))
    files = list((tmp_path / "wandb").glob(f"offline-run-*/run-{name}.wandb"))
    assert len(files) == 2 and b"evaluation/accuracy" in files[0].read_bytes() + files[1].read_bytes()


@pytest.mark.slow
def test_trackio_keeps_rows_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    log_rows(Trackers(["trackio"], tmp_path, {}, num_steps_done=0))
    from trackio.sqlite_storage import SQLiteStorage

    name = f"{tmp_path.name}-{(tmp_path / 'tracker_id').read_text()}"
    rows = SQLiteStorage.get_logs("tacit", name)
    assert [row.get("train/loss") for row in rows] == [0.5, 0.25, None]
