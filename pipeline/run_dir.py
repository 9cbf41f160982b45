"""The run directory: one run in it, and no other."""

import logging
import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from pipeline.config import Change, Config, changes, load_config
from pipeline.errors import UserError
from pipeline.ranks import barrier, from_rank_zero, rank
from pipeline.recorder import FILES

logger = logging.getLogger(__name__)

EXTENDED = "base"  # begins the name of a folder with a copy of the model that has more positions
EXTENDED_NAME = re.compile(rf"{EXTENDED}_[0-9]+_[0-9a-f]+")  # positions, and what it was made of
LOCK = ".lock"
WRITTEN_FOLDERS = ("checkpoints", "model", "stages", "tensorboard")


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keep every other run out of a run directory, which is made. The lock ends with the process, however that ends.

    Raises:
        UserError: On every rank, if another run is in it, or it cannot be written to.
    """
    lock = FileLock(run_dir / LOCK, blocking=False)
    fault = None
    if rank() == 0:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            fault = _take(lock, run_dir)
        except OSError as error:
            fault = f"run.output_dir ({run_dir}) cannot be written to ({error.strerror}); name another folder."
    if fault := from_rank_zero(fault):
        raise UserError(fault)
    try:
        yield
    finally:
        lock.release()


def _take(lock: BaseFileLock, run_dir: Path) -> str | None:
    """Take the lock and say so in the directory; return who has it, if somebody has."""
    holder = run_dir / f"{LOCK}.holder"
    try:
        lock.acquire()
    except Timeout:
        return f"run.output_dir ({run_dir}) is in use by {holder.read_text()}; wait for it, or name another folder."
    except NotImplementedError:  # some cluster file systems
        logger.warning(
            "run.output_dir (%s): no locks on this file system; see to it that no other run is there", run_dir
        )
    holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
    return None


def check_run_dir(run_dir: Path, config: Config, resume: bool, overwrite: bool) -> None:
    """Refuse to mix two runs in one directory; every rank learns what rank 0 finds.

    Raises:
        UserError: If the directory cannot be written to, or holds a run that is neither to be resumed nor replaced.
    """
    fault = from_rank_zero(_fault_of_run_dir(run_dir, config, resume, overwrite) if rank() == 0 else None)
    if fault:
        raise UserError(fault)


def _fault_of_run_dir(run_dir: Path, config: Config, resume: bool, overwrite: bool) -> str | None:
    """Return what is wrong with the run directory; None if it can be used."""
    parent = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        return f"run.output_dir ({run_dir}): {parent} is not a folder that can be written to; name another."
    if (run_dir / LOCK).exists():
        lock = FileLock(run_dir / LOCK, blocking=False)
        if fault := _take(lock, run_dir):
            return fault  # now, rather than when data and model are read
        lock.release()
    if not resume and (fault := _input_that_would_go(run_dir, config)):
        return fault
    is_run = (run_dir / "metrics.jsonl").exists()
    found = [name for name in (*WRITTEN_FOLDERS, *FILES) if (run_dir / name).exists()]
    if found and not (resume or overwrite):
        kind, remedy = ("an earlier run", "--resume to go on with it, ") if is_run else (", ".join(found), "")
        return (
            f"run.output_dir ({run_dir}) holds {kind}; add {remedy}--overwrite to replace it, or name another folder."
        )
    if not (is_run and resume):
        return None
    if not any((run_dir / "checkpoints").glob("*")) and '"checkpoint"' in (run_dir / "metrics.jsonl").read_text(
        "utf-8"
    ):
        return (
            f"--resume: the checkpoints of {run_dir} are gone, and the run would begin anew; put them back, or add "
            "--overwrite instead."
        )
    try:
        before = load_config(run_dir / "recipe.yaml")
    except UserError as error:  # raised here, on rank 0 alone, it would leave the others waiting
        return str(error)
    changed = changes(before, config)
    if all(change.is_free for change in changed):
        for line in _table(changed):
            logger.info(line)
        return None
    return "\n".join(
        [
            f"--resume: the recipe is another one than in {run_dir}/recipe.yaml, in settings that have shaped the run; "
            "undo what is marked, or start another run.",
            *_table(changed),
        ]
    )


def _input_that_would_go(run_dir: Path, config: Config) -> str | None:
    """Return the complaint about a file that the run reads where it writes; None if there is none."""
    inputs = {
        "data.train": config.data.train,
        "data.validation": config.data.validation,
        "model.name_or_path": config.model.name_or_path,
        "model.tokenizer": config.model.tokenizer,
    }
    written = [(run_dir / name).resolve() for name in (*WRITTEN_FOLDERS, *FILES)]
    for name, value in inputs.items():
        if value and any(Path(value).resolve().is_relative_to(path) for path in written):
            return (
                f"{name} ({value}) lies in run.output_dir ({run_dir}), where the run writes; copy it to another place, "
                "or choose another run.output_dir."
            )
    return None


def _table(changed: Sequence[Change]) -> list[str]:
    """Return lines that set side by side what the run began with and what it is to go on with."""
    if not changed:
        return []
    rows = [("setting", "when the run began", "now", "")]
    rows += [
        (change.name, repr(change.before), repr(change.now), "" if change.is_free else "<- keep") for change in changed
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def check_content(before: dict[str, str], now: dict[str, str]) -> None:
    """Refuse to go on with other rows than a run began with.

    Args:
        before: Hash of each source's content, by setting, as saved.
        now: The same, of this run.

    Raises:
        UserError: If they differ.
    """
    changed = [name for name in before if before[name] != now[name]]
    if changed:
        raise UserError(
            f"{', '.join(changed)}: the content is another one than when the run began, and a resumed run must see the "
            "same rows. Put it back, or start another run."
        )


def clear_run_dir(run_dir: Path, base: Path) -> None:
    """Delete what an earlier run wrote, and nothing else that may lie there.

    Args:
        run_dir: The run directory.
        base: The model that the new run starts from: it stays, if it is an extended copy there.
    """
    if rank() == 0:
        for extended in run_dir.glob(f"{EXTENDED}_*"):
            is_ours = EXTENDED_NAME.fullmatch(extended.name) and extended.is_dir()
            if is_ours and extended.resolve() != base.resolve():
                shutil.rmtree(extended)
        for name in WRITTEN_FOLDERS:
            shutil.rmtree(run_dir / name, ignore_errors=True)
        shutil.rmtree(run_dir / "report_figures", ignore_errors=True)
        for name in (*FILES, "tracker_id", "frontier.json", "audit.json", "report.html"):
            (run_dir / name).unlink(missing_ok=True)
    barrier()
