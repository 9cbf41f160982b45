"""Reads what DeepSpeed saved, without running code from the file."""

import os
import shutil
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from deepspeed.checkpoint.ds_to_universal import main as ds_to_universal
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from pipeline.manifest import incomplete
from pipeline.ranks import barrier, rank

# Early releases of Python 3.11 (Debian 12 has 3.11.2) pickle an enumeration as a call of getattr, which is not safe
# to load. By its value it is.
ZeroStageEnum.__reduce_ex__ = lambda stage, protocol: (ZeroStageEnum, (stage.value,))
# What DeepSpeed saves besides tensors and plain values: classes that do nothing when they are made.
torch.serialization.add_safe_globals([ZeroStageEnum, LossScaler, fragment_address])

TAG = "engine"  # DeepSpeed's name for the one state that a checkpoint of ours holds
FORCE_SAFE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


class SafeCheckpointEngine(TorchCheckpointEngine):
    """Loads tensors and plain values only; DeepSpeed's own unpickles anything."""

    def __init__(self) -> None:
        super().__init__()
        self._fault: OSError | None = None

    def save(self, state_dict: Any, path: str) -> None:
        """Write a file. A fault is kept for ``raise_fault``: DeepSpeed's next collective must find this rank."""
        try:
            with open(path, "wb") as file:  # torch's own writer says nothing of the disk's reason
                torch.save(state_dict, file)
        except OSError as error:
            self._fault = self._fault or error

    def raise_fault(self) -> None:
        """Raise what went wrong since the last call.

        Raises:
            OSError: The first fault.
        """
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read a file that ``save`` wrote."""
        return torch.load(path, map_location=map_location, weights_only=True)


def consolidated_weights(folder: Path, has_adapters: bool) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint, each whole, by name, in one process without the run's ranks.

    Under ZeRO these are the fp32 masters; without it, the model's own weights. The frozen base of adapters is not in a
    checkpoint.

    Args:
        folder: What ``Engine.save`` wrote to.
        has_adapters: Whether the run trained adapters.
    """
    if not list((folder / TAG).glob("*_optim_states.pt")):  # no ZeRO: rank 0 wrote the module as it is
        saved = torch.load(folder / TAG / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=True)
        return saved["module"]
    with _loading_safely():
        return get_fp32_state_dict_from_zero_checkpoint(str(folder), TAG, exclude_frozen_parameters=has_adapters)


@contextmanager
def shared_out_anew(ds_engine: Any, folder: Path) -> Iterator[Path]:
    """Let an engine load a ZeRO checkpoint that another number of ranks saved.

    Rank 0 puts the parts together, into DeepSpeed's universal format; every rank then takes its own from there.

    Args:
        ds_engine: DeepSpeed's engine.
        folder: What ``Engine.save`` wrote to.

    Yields:
        A folder that the engine can load from inside the context; it needs as much room as the checkpoint.
    """
    universal = incomplete(folder)
    if rank() == 0:
        shutil.rmtree(universal, ignore_errors=True)
        arguments = {"input_folder": str(folder / TAG), "output_folder": str(universal / TAG)}
        workers = {"num_extract_workers": 1, "num_merge_workers": 1}
        with _loading_safely():
            ds_to_universal(
                Namespace(**arguments, **workers, keep_temp_folder=False, strict=True, inject_missing_state=True)
            )
    barrier()
    ds_engine._config.load_universal_checkpoint = True
    try:
        with _loading_safely():
            yield universal
    finally:
        ds_engine._config.load_universal_checkpoint = False
    # Of several parts of a rank, each would count the steps of all, were the count one tensor. The fused AdamW wants it
    # where the weight is, and DeepSpeed leaves it where it was read to.
    for weight, state in ds_engine.optimizer.optimizer.state.items():
        state["step"] = torch.as_tensor(state["step"], dtype=torch.float32).to(weight.device, copy=True)
    barrier()
    if rank() == 0:
        shutil.rmtree(universal)


@contextmanager
def _loading_safely() -> Iterator[None]:
    """Make DeepSpeed's own reading unpickle nothing but tensors, plain values and the harmless classes."""
    before = os.environ.get(FORCE_SAFE)
    os.environ[FORCE_SAFE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FORCE_SAFE]
        else:
            os.environ[FORCE_SAFE] = before
