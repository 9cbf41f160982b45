"""The files of a folder of splits, which are all of one call: rows of two may have questions in common."""

import os
from collections.abc import Collection
from pathlib import Path

from pipeline.errors import UserError
from pipeline.records import LINE_WRITERS, check_output_path

NAMES = ("train", "validation", "test")
SUFFIXES = {"text": ".txt", "jsonl": ".jsonl"}


def plan_splits(
    output_dir: str, names: Collection[str], file_format: str, overwrite: bool, disjoint: Collection[str] = ()
) -> dict[str, Path]:
    """Return the file of each split; refuse a folder that would hold splits of two calls.

    Args:
        output_dir: The folder.
        names: Splits to write.
        file_format: ``text`` or ``jsonl``.
        overwrite: Whether files of the same names are to be replaced.
        disjoint: Files whose questions the new rows leave out; these may stay.

    Raises:
        UserError: If there are splits that would stay beside the new ones, or a file cannot be written.
    """
    paths = {name: Path(output_dir) / f"{name}{SUFFIXES[file_format]}" for name in names}
    for path in paths.values():
        check_output_path(path, overwrite)
    stale = [path for path in splits_in(output_dir) if path not in paths.values() and not is_among(path, disjoint)]
    if stale:
        raise UserError(
            f"{stale[0]}: would stay beside the new splits, and may share questions with them; remove it, or name "
            "another --output_dir."
        )
    return paths


def splits_in(folder: str) -> list[Path]:
    """Return the files in a folder that an earlier call may have written."""
    paths = [Path(folder) / f"{name}{suffix}" for name in NAMES for suffix in LINE_WRITERS]
    return [path for path in paths if os.path.isfile(path)]


def is_among(path: Path, others: Collection[str]) -> bool:
    """Return whether an existing file is one of others, some of which may not exist."""
    return any(os.path.exists(other) and os.path.samefile(path, other) for other in others)
