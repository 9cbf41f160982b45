"""A collapse after a removal is recorded with stage and step, also by a run that was resumed in between."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.batching import StepBatch
from pipeline.engine import Engine, StepMetrics
from pipeline.errors import Interrupted
from pipeline.train import train
from tests.tiny import tiny_config


def test_a_collapse_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = Engine.train_step

    def train_step(self: Engine, batch: StepBatch, learning_rate: float) -> StepMetrics:
        metrics = really(self, batch, learning_rate)
        loss = 9.0 if batch.step in (6, 7) else 1.0 + batch.step / 100  # the stage of steps 7 and 8, counted from 1
        return StepMetrics(loss, metrics.token_accuracy, metrics.grad_norm)

    monkeypatch.setattr(Engine, "train_step", train_step)

    def collapses() -> list[dict[str, Any]]:
        rows = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
        return [row for row in rows if row["kind"] == "collapse"]

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stop_now").touch()
    monkeypatch.setattr("pipeline.requests.SECONDS_BETWEEN_LOOKS", 0.0)
    config = tiny_config(tmp_path)
    for _ in range(7):  # up to the middle of that stage, a step at a time
        with pytest.raises(Interrupted):
            train(config, resume=True)
        (tmp_path / "run" / "stop_now").touch()
    assert collapses() == []
    (tmp_path / "run" / "stop_now").unlink()
    train(config, resume=True)
    expected = {"step": 8, "stage": 2, "num_removed": 2, "loss": 9.0, "loss_before": pytest.approx(1.045)}
    assert collapses() == [{"kind": "collapse", **expected}]
