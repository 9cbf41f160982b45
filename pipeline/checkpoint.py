"""Checkpoints that a reader never sees half of, and of which a damaged one is never mistaken for a good one.

A checkpoint is written beside its place, listed with sizes and hashes in a manifest, flushed, and renamed; only then
does ``latest`` point at it, and only then do older ones go.
"""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from pipeline.answer_spec import AnswerSpec
from pipeline.engine import Engine
from pipeline.errors import RunError, UserError
from pipeline.manifest import fault_of, incomplete, put_in_place, remove, sweep, write_manifest, writing
from pipeline.model_folder import DESCRIPTION, save_description
from pipeline.ranks import from_rank_zero, on_every_rank, on_rank_zero, rank, world_size

logger = logging.getLogger(__name__)

STATE = "controller.json"
LATEST = "latest"
"""A link to the newest checkpoint, for people and other programs."""


def save_checkpoint(
    folder: Path,
    step: int,
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    spec: AnswerSpec,
    state: dict[str, Any],
    *,
    keep: int,
    ends_stage: bool,
    keep_stage_ends: bool,
) -> None:
    """Write ``folder/step_NNNNNNNN`` and delete what is no longer to be kept. Every rank takes part.

    Args:
        folder: The run's ``checkpoints`` folder.
        step: Optimizer steps done.
        engine: Weights and optimizer state.
        tokenizer: Saved with it, so that a model can be made of the checkpoint alone.
        spec: How the model is to be asked.
        state: What the run needs to go on, as JSON.
        keep: Newest checkpoints that stay, this one included.
        ends_stage: Whether this is the last step of a stage.
        keep_stage_ends: Whether checkpoints at a stage's end stay as well.

    Raises:
        RunError: On every rank, if any could not write its part; what was there before is as it was.
    """
    final = folder / f"step_{step:08d}"
    temporary = incomplete(final)

    def begin() -> None:
        with writing(final):
            sweep(folder, "step_*")
            temporary.mkdir(parents=True)

    def write_part() -> None:
        with writing(final):
            engine.save(temporary)

    def finish() -> None:
        with writing(final):
            whole_state = {**state, "step": step, "ends_stage": ends_stage, "world_size": world_size()}
            (temporary / STATE).write_text(json.dumps(whole_state), encoding="utf-8")
            save_description(temporary / DESCRIPTION, engine, tokenizer, spec)
            write_manifest(temporary)
            put_in_place(final)
            _point_at(final)
            for old in _checkpoints(folder)[:-keep]:
                if not (keep_stage_ends and _ends_stage(old)):
                    remove(old)

    try:
        on_rank_zero(begin)
        on_every_rank(write_part)
        on_rank_zero(finish)
    except RunError:
        if rank() == 0:
            sweep(folder, "step_*")  # gives its room back
        raise


def load_checkpoint(folder: Path, engine: Engine) -> dict[str, Any] | None:
    """Load the newest whole checkpoint into the engine; damaged ones are passed over, set aside, and said so.

    Another number of ranks than saved it can load it too.

    Returns:
        The saved state with ``step`` and ``world_size``, or None if there is no checkpoint.

    Raises:
        UserError: If every checkpoint is damaged, or the optimizer does not allow the number of ranks.
    """
    chosen, damaged = from_rank_zero(_newest_whole(folder) if rank() == 0 else None)
    if chosen is None:
        if damaged:
            raise UserError(f"{folder}: every checkpoint is damaged; --overwrite starts the run afresh.")
        return None
    state = from_rank_zero(json.loads((chosen / STATE).read_text(encoding="utf-8")) if rank() == 0 else None)
    engine.load(chosen, state["world_size"])
    if rank() == 0:
        for path in damaged:  # or, being newer, they would count among those that are kept
            aside = path.with_name(f".{path.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)  # the same step may have been damaged before
            path.rename(aside)
        if damaged:
            _point_at(chosen)
    return state


def _newest_whole(folder: Path) -> tuple[Path | None, list[Path]]:
    """Return the newest whole checkpoint, and the damaged ones that are newer."""
    damaged: list[Path] = []
    for candidate in reversed(_checkpoints(folder)):
        fault = fault_of(candidate, must_list=STATE)
        if fault is None:
            return candidate, damaged
        logger.warning("%s is damaged (%s); trying the one before", candidate, fault)
        damaged.append(candidate)
    return None, damaged


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*"))


def _point_at(checkpoint: Path) -> None:
    link = checkpoint.with_name(f".{LATEST}.incomplete")
    link.unlink(missing_ok=True)
    link.symlink_to(checkpoint.name)
    os.replace(link, checkpoint.with_name(LATEST))


def _ends_stage(checkpoint: Path) -> bool:
    """Return whether a checkpoint was written at the end of a stage; what cannot be read is kept as if it were."""
    try:
        return json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["ends_stage"]
    except (OSError, ValueError, KeyError):
        return True
