"""What DeepSpeed saves must load without running code, whatever Python saved it, and be where the weights are."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from deepspeed.runtime.zero.config import ZeroStageEnum

from pipeline.engine import saved_state
from pipeline.engine.saved_state import SafeCheckpointEngine, shared_out_anew


def test_the_zero_stage_is_saved_by_value_and_loads_safely() -> None:
    assert ZeroStageEnum(3).__reduce_ex__(2) == (ZeroStageEnum, (3,))
    file = io.BytesIO()
    torch.save({"zero_stage": ZeroStageEnum(3), "weights": torch.ones(2)}, file)
    file.seek(0)
    assert SafeCheckpointEngine().load(file)["zero_stage"] is ZeroStageEnum.weights  # type: ignore[arg-type]


def test_step_counts_that_were_shared_out_anew_are_where_the_weights_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_state, "ds_to_universal", lambda arguments: saved_state.incomplete(tmp_path).mkdir())
    weights, count = [torch.nn.Parameter(torch.empty(3, device="meta")) for _ in range(2)], torch.tensor(9.0)
    optimizer = SimpleNamespace(state={weight: {"step": count} for weight in weights})  # as DeepSpeed reads them
    with shared_out_anew(
        SimpleNamespace(_config=SimpleNamespace(), optimizer=SimpleNamespace(optimizer=optimizer)),  # type: ignore[arg-type]
        tmp_path,
    ):
        pass
    counts = [optimizer.state[weight]["step"] for weight in weights]
    assert {step.device for step in counts} == {torch.device("meta")}
    assert counts[0] is not counts[1]
