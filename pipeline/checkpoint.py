"""Checkpoints that a reader never sees half of.

A checkpoint is written beside its place, listed with sizes and hashes in a manifest, and renamed.
"""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from pipeline.answer_spec import AnswerSpec
from pipeline.engine import Engine
from pipeline.errors import UserError
from pipeline.model_folder import DESCRIPTION, save_description
from pipeline.ranks import barrier, from_rank_zero, rank, world_size

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STATE = "controller.json"


def save_checkpoint(
    folder: Path,
    step: int,
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    spec: AnswerSpec,
    state: dict[str, Any],
    keep: int,
) -> None:
    """Write ``folder/step_NNNNNNNN`` and delete all but the newest ``keep``. Every rank takes part.

    Args:
        folder: The run's ``checkpoints`` folder.
        step: Optimizer steps done.
        engine: Weights and optimizer state.
        tokenizer: Saved with it, so that a model can be made of the checkpoint alone.
        spec: How the model is to be asked.
        state: What the controller and the run need to go on, as JSON.
        keep: Checkpoints that stay, this one included.
    """
    final = folder / f"step_{step:08d}"
    temporary = folder / f".{final.name}.incomplete"
    if rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    barrier()
    engine.save(temporary)
    barrier()
    if rank() == 0:
        (temporary / STATE).write_text(
            json.dumps({**state, "step": step, "world_size": world_size()}), encoding="utf-8"
        )
        save_description(temporary / DESCRIPTION, engine, tokenizer, spec)
        _write_manifest(temporary)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        for old in _checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    barrier()


def load_checkpoint(folder: Path, engine: Engine) -> dict[str, Any] | None:
    """Load the newest whole checkpoint into the engine; damaged ones are passed over, set aside, and said so.

    Returns:
        The saved state with ``step`` and ``world_size``, or None if there is no checkpoint.

    Raises:
        UserError: If it was saved by another number of ranks, or every checkpoint is damaged.
    """
    chosen, damaged = from_rank_zero(_newest_whole(folder) if rank() == 0 else None)
    if chosen is None:
        if damaged:
            raise UserError(f"{folder}: every checkpoint is damaged; --overwrite starts the run afresh.")
        return None
    state = json.loads((chosen / STATE).read_text(encoding="utf-8"))
    if state["world_size"] != world_size():
        raise UserError(
            f"{chosen} was saved by {state['world_size']} ranks, this run has {world_size()}; "
            f"start it with {state['world_size']}."
        )
    engine.load(chosen)
    if rank() == 0:
        for path in damaged:  # or, being newer, they would count among those that are kept
            path.rename(path.with_name(f".{path.name}.damaged"))
    return state


def _newest_whole(folder: Path) -> tuple[Path | None, list[Path]]:
    """Return the newest whole checkpoint, and the damaged ones that are newer."""
    damaged: list[Path] = []
    for candidate in reversed(_checkpoints(folder)):
        fault = fault_of(candidate)
        if fault is None:
            return candidate, damaged
        logger.warning("%s is damaged (%s); trying the one before", candidate, fault)
        damaged.append(candidate)
    return None, damaged


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*"))


def _write_manifest(folder: Path) -> None:
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                files[str(path.relative_to(folder))] = {
                    "size": path.stat().st_size,
                    "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                }
                os.fsync(file.fileno())
    (folder / MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")


def fault_of(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, by its manifest's sizes and hashes; None if it is whole."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest.items():
            path = folder / name
            if path.stat().st_size != expected["size"]:
                return f"{name} has {path.stat().st_size} bytes, not {expected['size']}"
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                    return f"{name} has other content than when it was saved"
    except (OSError, ValueError) as error:
        return str(error)
    return None
