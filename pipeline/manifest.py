"""Folders that are whole or not there: written beside, listed with sizes and hashes, flushed, renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import RunError, in_one_line

MANIFEST = "manifest.json"


def incomplete(folder: Path) -> Path:
    """Return where a folder is written before it is moved to its place."""
    return folder.with_name(f".{folder.name}.incomplete")


def put_in_place(folder: Path) -> None:
    """Move what was written to ``incomplete(folder)`` to its place; an older folder of that name goes."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    incomplete(folder).rename(folder)
    _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove(folder: Path) -> None:
    """Delete a folder; nobody sees half of it under its name meanwhile."""
    old = folder.with_name(f".{folder.name}.old")
    folder.rename(old)
    shutil.rmtree(old)


def sweep(parent: Path, pattern: str) -> None:
    """Delete what ``put_in_place`` and ``remove`` of folders named by a pattern left behind when they were cut off."""
    for ending in ("incomplete", "old"):
        for path in parent.glob(f".{pattern}.{ending}"):
            shutil.rmtree(path, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a file of which nobody ever sees half, not even after the machine has lost its power."""
    beside = path.with_name(f".{path.name}.incomplete")
    beside.write_text(text, encoding="utf-8")
    _flush(beside)
    beside.replace(path)


def write_manifest(folder: Path) -> None:
    """List every file of a folder with size and SHA-256, and flush all of it to the disk."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                files[str(path.relative_to(folder))] = {
                    "size": path.stat().st_size,
                    "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                }
    (folder / MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")
    for path in (*folder.rglob("*"), folder):
        _flush(path)


def fault_of(folder: Path, must_list: str | None = None) -> str | None:
    """Return what is wrong with a folder, by its manifest; None if every file listed is as it was written.

    A manifest that names anything outside the folder is refused.

    Args:
        folder: With a manifest in it.
        must_list: A file without which the folder is of no use.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or not manifest:
            return f"{MANIFEST} lists no files"
        if must_list is not None and must_list not in manifest:
            return f"{MANIFEST} does not list {must_list}"
        faults = (_fault_of_file(folder, name, expected) for name, expected in manifest.items())
        return next((fault for fault in faults if fault is not None), None)
    except (OSError, ValueError, RecursionError) as error:
        return f"{MANIFEST} or what it lists cannot be read ({in_one_line(error)})"


def _fault_of_file(folder: Path, name: str, expected: Any) -> str | None:
    path = Path(os.path.realpath(folder / name))  # which, unlike `Path.resolve`, takes links that go in circles
    if not path.is_relative_to(os.path.realpath(folder)):
        return f"{MANIFEST} names {name!r}, which lies outside"
    if not path.is_file():  # a pipe would be read for ever
        return f"{MANIFEST} names {name!r}, which is no file"
    if not isinstance(expected, dict) or expected.keys() != {"size", "sha256"}:
        return f"{MANIFEST} does not tell size and hash of {name!r}"
    if path.stat().st_size != expected["size"]:
        return f"{name} has {path.stat().st_size} bytes, not {expected['size']}"
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
            return f"{name} has other content than when it was saved"
    return None


@contextmanager
def writing(what: str | Path) -> Iterator[None]:
    """Tell a disk's fault in one line.

    Raises:
        RunError: In the place of what the disk, or a library on its behalf, raised.
    """
    try:
        yield
    except (OSError, _safetensors_error()) as error:
        reason = getattr(error, "strerror", None) or in_one_line(error)
        raise RunError(
            f"{what} could not be written ({reason}). What was saved before is whole: make room, or mend the disk, "
            "and go on with --resume."
        ) from error


def _safetensors_error() -> type[Exception]:
    from safetensors import SafetensorError  # imports numpy and torch's part on demand

    return SafetensorError


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
