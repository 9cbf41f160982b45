"""What a run directory holds, read for the report: also of a run that goes on, was cut, or wrote half a last line."""

import fcntl
import json
import logging
import math
import os
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.recipe_yaml import read_recipe
from pipeline.errors import UserError

logger = logging.getLogger(__name__)

Row = dict[str, Any]
NUM_QUESTIONS = 20
"""Of so many validation rows, from the first, the answers are kept."""
POINT_FIELDS = {"num_removed", "accuracy", "confidence_interval", "cot_tokens", "latency_ms", "examples_per_second"}
POINT_FIELDS |= {"speedup"}
AUDIT_FIELDS = {"model", "data", "num_examples", "accuracy", "confidence_interval", "leak"}


@dataclass(frozen=True, slots=True)
class Run:
    """One run's files; what is not there is empty or None."""

    path: Path
    recipe: dict[str, Any]
    recipe_text: str
    environment_text: str
    train: tuple[Row, ...]
    """Rows of kind ``train``, by step."""
    evaluations: tuple[Row, ...]
    resets: tuple[Row, ...]
    """``step`` is the first one after the reset."""
    checkpoints: tuple[Row, ...]
    collapses: tuple[Row, ...]
    nonfinite: tuple[Row, ...]
    samples: tuple[Row, ...]
    """Answers to the first ``NUM_QUESTIONS`` validation rows, as often as they were asked."""
    model: dict[str, Any] | None
    """``tacit.json`` of the model kept."""
    frontier: dict[str, Any] | None
    audit: dict[str, Any] | None
    is_running: bool
    num_unreadable: int
    """Lines that are no rows, a last one that is not finished left out."""

    def setting(self, dotted: str) -> Any:
        """Return a setting of the recipe by its dotted name, or None where the recipe does not have it."""
        value: Any = self.recipe
        for name in dotted.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value

    @property
    def last_step(self) -> int:
        """Optimizer steps of which anything is known."""
        return max((row["step"] for row in (*self.train, *self.evaluations)), default=0)


def read_run(path: Path) -> Run:
    """Read a run directory.

    Raises:
        UserError: If it holds no metrics, or a file that a command of ours did not write.
    """
    metrics = path / "metrics.jsonl"
    if not metrics.is_file():
        raise UserError(
            f"{path}: holds no metrics.jsonl, so it is no run directory or has not begun to train; check the path."
        )
    lines = _Lines()
    kinds: dict[str, dict[int, Row]] = {}
    for row in lines.read(metrics, "stage", "num_removed"):
        # A run that was cut at a boundary writes its reset again when it goes on; the latest row of a step counts.
        kinds.setdefault(str(row.get("kind")), {})[row["step"]] = row
    samples = [row for row in lines.read(path / "samples.jsonl") if _is_kept_sample(row)]

    def rows(kind: str) -> tuple[Row, ...]:
        return tuple(row for _, row in sorted(kinds.get(kind, {}).items()))

    recipe = path / "recipe.yaml"
    train = rows("train")
    model = _json_object(path / "model" / "tacit.json", "tacit train", {"num_removed", "removes_all"})
    return Run(
        path=path,
        recipe=read_recipe(str(recipe)) if recipe.is_file() else {},
        recipe_text=_text(recipe),
        environment_text=_text(path / "environment.json"),
        train=train,
        evaluations=tuple(row for row in rows("evaluation") if number(row.get("accuracy")) is not None),
        resets=rows("reset"),
        checkpoints=rows("checkpoint"),
        collapses=rows("collapse"),
        nonfinite=rows("nonfinite"),
        samples=tuple(samples),
        model=model,
        frontier=_frontier(path / "frontier.json", _kept_numbers(path, model)),
        audit=_json_object(path / "audit.json", "tacit audit", AUDIT_FIELDS),
        is_running=_is_locked(path / ".lock"),
        num_unreadable=lines.num_unreadable,
    )


def number(value: Any) -> float | None:
    """Return a number of a row; None where there is none, as for a loss that was inf or NaN."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def run_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each run: the folder's, with as many folders above it as tell the runs apart."""
    parts = [path.absolute().parts for path in paths]
    length = 1
    while length < max(map(len, parts)) and len({part[-length:] for part in parts}) < len(set(parts)):
        length += 1
    return [str(Path(*part[-length:])) for part in parts]


class _Lines:
    """Reads JSON lines and counts those that are no rows."""

    def __init__(self) -> None:
        self.num_unreadable = 0

    def read(self, path: Path, *names: str) -> Iterator[Row]:
        """Yield the rows of a file that may not be there, and that a run may be writing to.

        Args:
            path: The file.
            names: Whole numbers that a row must hold besides its step.
        """
        if not path.is_file():
            return
        with _reading(path), path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                row = _row(line, ("step", *names))
                if row is not None:
                    yield row
                elif line.endswith("\n") and line.strip():
                    self.num_unreadable += 1


def _row(line: str, names: Sequence[str]) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and all(isinstance(row.get(name), int) for name in names) else None


def _is_kept_sample(row: Row) -> bool:
    texts = (row.get(name) for name in ("question", "answer", "prediction", "text"))
    return isinstance(row.get("row"), int) and row["row"] < NUM_QUESTIONS and all(isinstance(t, str) for t in texts)


def _text(path: Path) -> str:
    with _reading(path):
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions.") from error


def _json_object(path: Path, command: str, fields: Set[str]) -> dict[str, Any] | None:
    """Return what a command of ours wrote, or None if there is no such file.

    Raises:
        UserError: If it is no JSON object, or lacks one of the fields.
    """
    if not path.is_file():
        return None
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or fields - value.keys():
        raise UserError(f"{path}: is not what {command} writes; delete it, or run {command} again.")
    return value


def _kept_numbers(path: Path, model: dict[str, Any] | None) -> set[int]:
    """Return the numbers of removed units at which a run has a model."""
    names = (folder.name.removeprefix("removed_") for folder in (path / "stages").glob("removed_*"))
    return {int(name) for name in names if name.isdecimal()} | ({model["num_removed"]} if model else set())


def _frontier(path: Path, kept: Set[int]) -> dict[str, Any] | None:
    """Return the frontier, or None where there is none or the run has kept further models since.

    Raises:
        UserError: If the file is not what ``tacit frontier`` writes.
    """
    frontier = _json_object(path, "tacit frontier", {"data", "num_examples", "points", "operating_points"})
    if frontier is not None and not all(map(POINT_FIELDS.issubset, frontier["points"] or [()])):
        raise UserError(f"{path}: is not what tacit frontier writes; delete it, or run tacit frontier again.")
    if frontier is not None and kept - {point["num_removed"] for point in frontier["points"]}:
        logger.warning("%s is left out: the run has kept further models since; run tacit frontier again", path)
        return None
    return frontier


def _is_locked(lock: Path) -> bool:
    """Return whether a run holds its lock; asked with a shared one, for an instant, and without writing anything."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks cannot tell
        return False
    finally:
        os.close(descriptor)
    return False
