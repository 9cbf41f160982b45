"""`tacit train`: a run from a recipe."""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.local_ranks import is_first_rank, run_local_ranks, set_up_log
from pipeline.config import parse_command_line
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.rehearsal import Rehearsal
    from pipeline.train import TrainingResult

REHEARSAL_RANKS = 2

SWITCHES = {
    "resume": "Go on from the newest checkpoint in the run directory; start afresh if there is none.",
    "overwrite": "Replace an earlier run in the run directory.",
    "rehearse": "Go through the recipe in small on two CPU ranks: tiny model, short stages, the same ZeRO stage.",
    "quiet": "Show no progress; warnings, errors and the result are told.",
    "json": "Print the result as one JSON object.",
}


def main(argv: Sequence[str]) -> int:
    """Train, and say where the model is; or rehearse.

    Args:
        argv: Arguments after ``train``.

    Returns:
        0, or what a rehearsal's ranks returned.

    Raises:
        UserError: If recipe, data or model are at fault.
    """
    config, switches = parse_command_line(argv, "tacit train", SWITCHES)
    if "rehearse" in switches:
        if switches & {"resume", "overwrite"}:
            raise UserError("--rehearse writes a folder of its own; leave --resume and --overwrite out.")
        if "WORLD_SIZE" not in os.environ:
            return run_local_ranks(REHEARSAL_RANKS, ["train", *argv])
    is_first = is_first_rank()
    set_up_log("quiet" in switches)

    # Libraries log to stdout, which is for the result; they import torch: not before the recipe is known to be right.
    with contextlib.redirect_stdout(sys.stderr):
        if "rehearse" in switches:
            from pipeline.rehearsal import rehearse

            rehearsal = rehearse(config)
        else:
            from pipeline.train import train

            result = train(
                config, resume="resume" in switches, overwrite="overwrite" in switches, quiet="quiet" in switches
            )
    if not is_first:
        return 0
    as_json = "json" in switches
    if "rehearse" in switches:
        print(json.dumps(_plain(rehearsal)) if as_json else _say_rehearsed(rehearsal))
    else:
        print(json.dumps(_plain(result)) if as_json else _say_trained(result))
    return 0


def _plain(result: Any) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in dataclasses.asdict(result).items()
    }


def _say_trained(result: "TrainingResult") -> str:
    from pipeline.stage_registry import kept_stages  # imports torch

    kept = (
        f"validation accuracy {result.best_accuracy:.3f} at step {result.best_step}"
        if result.best_step
        else "last step"
    )
    run_dir = result.model_dir.parent
    lines = [f"trained {result.num_steps} steps; kept {result.model_dir} ({kept})"]
    following = [f"tacit evaluate --model {result.model_dir} --data TEST_FILE"]
    if stages := kept_stages(run_dir):
        lines.append(f"stages: {len(stages)} models in {run_dir / 'stages'}")
        following = [f"tacit frontier {run_dir} --data TEST_FILE"]
    lines.append(f"metrics and samples: {run_dir / 'metrics.jsonl'}, {run_dir / 'samples.jsonl'}")
    following += [f"tacit report {run_dir}", f"tacit ask {result.model_dir}"]
    return "\n".join([*lines, "next: " + "\n      ".join(following)])


def _say_rehearsed(rehearsal: "Rehearsal") -> str:
    return (
        f"rehearsed {rehearsal.num_steps} steps with {rehearsal.num_removed} removed units on a tiny model: every "
        f"stage, checkpoint, resume and export held ({rehearsal.folder})\n"
        f"the run itself: {rehearsal.num_removed_in_full} removed units, {rehearsal.steps_per_epoch} optimizer steps "
        "an epoch; `tacit plan` tells its memory and time"
    )
