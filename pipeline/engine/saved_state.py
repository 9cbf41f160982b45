"""Reads what DeepSpeed saved, without running code from the file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

# Early releases of Python 3.11 (Debian 12 has 3.11.2) pickle an enumeration as a call of getattr, which is not safe
# to load. By its value it is.
ZeroStageEnum.__reduce_ex__ = lambda stage, protocol: (ZeroStageEnum, (stage.value,))

TAG = "engine"  # DeepSpeed's name for the one state that a checkpoint of ours holds
FORCE_SAFE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


class SafeCheckpointEngine(TorchCheckpointEngine):
    """Loads tensors and plain values only; DeepSpeed's own unpickles anything."""

    def __init__(self) -> None:
        super().__init__()
        self.zipfile_serialization = True  # torch's present format

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read a file that ``save`` wrote."""
        with _known_classes():
            return torch.load(path, map_location=map_location, weights_only=True)


def consolidated_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the trained weights of a checkpoint, each whole, by name, in one process without the run's ranks.

    Under ZeRO these are the fp32 masters; without it, the model's own weights. Frozen weights are not in a checkpoint.

    Args:
        folder: What ``Engine.save`` wrote to.
    """
    if not list((folder / TAG).glob("*_optim_states.pt")):  # no ZeRO: rank 0 wrote the module as it is
        with _known_classes():
            saved = torch.load(folder / TAG / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=True)
        return saved["module"]
    before = os.environ.get(FORCE_SAFE)
    os.environ[FORCE_SAFE] = "1"  # DeepSpeed would unpickle here too
    try:
        with _known_classes():
            return get_fp32_state_dict_from_zero_checkpoint(str(folder), TAG, exclude_frozen_parameters=True)
    finally:
        if before is None:
            del os.environ[FORCE_SAFE]
        else:
            os.environ[FORCE_SAFE] = before


@contextmanager
def _known_classes() -> Iterator[None]:
    with torch.serialization.safe_globals([ZeroStageEnum, LossScaler, fragment_address]):
        yield
