"""TensorBoard, Weights & Biases, trackio: the rows of metrics.jsonl, under the same names everywhere.

A tracker is a guest: whatever it raises is told once, and the run goes on without it.
"""

import importlib.util
import logging
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import TrackerName
from pipeline.errors import UserError, in_one_line

logger = logging.getLogger(__name__)

PROJECT = "tacit"
Log = Callable[[dict[str, float], int], None]


def chosen_trackers(named: Sequence[TrackerName] | None) -> Sequence[TrackerName]:
    """Return the trackers of a run.

    Args:
        named: ``run.trackers``; None takes TensorBoard where it is installed.

    Raises:
        UserError: If one is named that is not installed.
    """
    if named is None:
        return ["tensorboard"] if _is_installed("tensorboard") else []
    for name in named:
        if not _is_installed(name):
            raise UserError(f"run.trackers ({name}) is not installed; pip install {name}, or take it out.")
    return named


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


class Trackers:
    """Passes metrics on; on one rank only."""

    def __init__(
        self, names: Sequence[TrackerName], run_dir: Path, recipe: dict[str, Any], num_steps_done: int
    ) -> None:
        """Open them.

        Args:
            names: As ``chosen_trackers`` returns them.
            run_dir: Gives the run its name, and holds what is written on this machine.
            recipe: Settings, by section.
            num_steps_done: Optimizer steps before this process; what a cut run wrote after them is void.
        """
        self._open: dict[TrackerName, tuple[Log, Callable[[], None]]] = {}
        for name in names:
            try:
                self._open[name] = OPENERS[name](run_dir, recipe, num_steps_done)
            except Exception as error:
                _tell(name, error)

    def log(self, kind: str, step: int, fields: dict[str, Any]) -> None:
        """Pass a row on: each number of it as ``kind/name``."""
        numbers = {f"{kind}/{name}": float(value) for name, value in fields.items() if isinstance(value, (int, float))}
        for name, (log, _) in list(self._open.items()):
            try:
                log(numbers, step)
            except Exception as error:
                _tell(name, error)
                del self._open[name]

    def close(self) -> None:
        """Let them finish their files."""
        for name, (_, close) in self._open.items():
            try:
                close()
            except Exception as error:
                _tell(name, error)


def _tell(name: str, error: Exception) -> None:
    logger.warning("run.trackers: %s failed (%s); the run goes on without it", name, in_one_line(error))


def _open_tensorboard(run_dir: Path, recipe: dict[str, Any], num_steps_done: int) -> tuple[Log, Callable[[], None]]:
    from torch.utils.tensorboard import SummaryWriter  # takes a second

    writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=num_steps_done + 1)

    def log(numbers: dict[str, float], step: int) -> None:
        for name, number in numbers.items():
            writer.add_scalar(name, number, step)

    return log, writer.close


def _open_wandb(run_dir: Path, recipe: dict[str, Any], num_steps_done: int) -> tuple[Log, Callable[[], None]]:
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=run_dir.name,
        id=_run_id(run_dir),
        resume="allow",
        dir=str(run_dir),
        config=recipe,
        settings=wandb.Settings(silent=True, console="off"),
    )
    return lambda numbers, step: run.log(numbers, step=step), run.finish


def _open_trackio(run_dir: Path, recipe: dict[str, Any], num_steps_done: int) -> tuple[Log, Callable[[], None]]:
    import trackio

    run = trackio.init(
        project=os.environ.get("TRACKIO_PROJECT", PROJECT),
        name=f"{run_dir.name}-{_run_id(run_dir)}",
        resume="allow",
        config=recipe,
        embed=False,
    )
    return lambda numbers, step: run.log(numbers, step=step), run.finish


OPENERS = {"tensorboard": _open_tensorboard, "wandb": _open_wandb, "trackio": _open_trackio}


def _run_id(run_dir: Path) -> str:
    """Return the name under which a resumed run is found again; it lies in the run directory."""
    path = run_dir / "tracker_id"
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
    return path.read_text(encoding="utf-8")
