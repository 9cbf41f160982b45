"""What the controller makes of a step, apart from any engine."""

import math
from pathlib import Path

import pytest

from pipeline.controller import StageController
from pipeline.engine import StepMetrics
from pipeline.modeling import build_tokenizer
from pipeline.preparation import load_data
from tests.tiny import tiny_config


@pytest.mark.parametrize(
    ("loss", "grad_norm", "is_finite"),
    [(1.0, 1.0, True), (math.nan, 1.0, False), (math.inf, 1.0, False), (1.0, math.nan, False), (1.0, math.inf, False)],
)
def test_an_adaptive_stage_does_not_count_a_step_that_changed_nothing(
    tmp_path: Path, loss: float, grad_norm: float, is_finite: bool
) -> None:
    adaptive = {"loss_threshold": 0.5, "window": 2, "min_steps": 2}
    config = tiny_config(tmp_path, schedule={"kind": "adaptive", "adaptive": adaptive})
    examples, _ = load_data(config, build_tokenizer(config.model))
    controller = StageController(config, examples, engine=None)  # type: ignore[arg-type]
    controller.after_step(StepMetrics(loss, token_accuracy=0.5, grad_norm=grad_norm))
    assert controller.step == 1
    assert list(controller.state()["adaptive"]["recent_losses"]) == ([loss] if is_finite else [])
