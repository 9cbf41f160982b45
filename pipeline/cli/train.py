"""`tacit train`: a run from a recipe."""

import contextlib
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Sequence

from pipeline.config import parse_command_line

SWITCHES = {
    "resume": "Go on from the newest checkpoint in the run directory; start afresh if there is none.",
    "overwrite": "Replace an earlier run in the run directory.",
    "json": "Print the result as one JSON object.",
}


def main(argv: Sequence[str]) -> int:
    """Train, and say where the model is.

    Args:
        argv: Arguments after ``train``.

    Returns:
        0.

    Raises:
        UserError: If recipe, data or model are at fault.
    """
    config, switches = parse_command_line(argv, "tacit train", SWITCHES)
    is_first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("pipeline").setLevel(logging.INFO if is_first else logging.ERROR)

    with contextlib.redirect_stdout(sys.stderr):  # libraries log to stdout, which is for the result
        from pipeline.train import train  # imports torch: not before the recipe is known to be right

        result = train(config, resume="resume" in switches, overwrite="overwrite" in switches)
    if not is_first:
        return 0
    if "json" in switches:
        print(json.dumps({**dataclasses.asdict(result), "model_dir": str(result.model_dir)}))
        return 0
    kept = (
        f"validation accuracy {result.best_accuracy:.3f} at step {result.best_step}"
        if result.best_step
        else "last step"
    )
    print(f"trained {result.num_steps} steps; kept {result.model_dir} ({kept})")
    print(f"next: tacit evaluate --model {result.model_dir} --data TEST_FILE")
    return 0
