"""What DeepSpeed saves must load without running code, whatever Python saved it."""

import io

import torch
from deepspeed.runtime.zero.config import ZeroStageEnum

from pipeline.engine.saved_state import SafeCheckpointEngine


def test_the_zero_stage_is_saved_by_value_and_loads_safely() -> None:
    assert ZeroStageEnum(3).__reduce_ex__(2) == (ZeroStageEnum, (3,))
    file = io.BytesIO()
    torch.save({"zero_stage": ZeroStageEnum(3), "weights": torch.ones(2)}, file)
    file.seek(0)
    assert SafeCheckpointEngine().load(file)["zero_stage"] is ZeroStageEnum.weights  # type: ignore[arg-type]
