"""The run directory: one run in it, and no other."""

import os
import shutil
from pathlib import Path

from pipeline.config import Config, changes_of_the_past, load_config
from pipeline.errors import UserError
from pipeline.ranks import barrier, from_rank_zero, rank

EXTENDED = "base"  # begins the name of a folder with a copy of the model that has more positions


def check_run_dir(run_dir: Path, config: Config, resume: bool, overwrite: bool) -> None:
    """Refuse to mix two runs in one directory; every rank learns what rank 0 finds.

    Raises:
        UserError: If the directory cannot be written to, or holds a run that is neither to be resumed nor replaced.
    """
    fault = from_rank_zero(_fault_of_run_dir(run_dir, config, resume, overwrite) if rank() == 0 else None)
    if fault:
        raise UserError(fault)


def _fault_of_run_dir(run_dir: Path, config: Config, resume: bool, overwrite: bool) -> str | None:
    """Return what is wrong with the run directory; nothing or an empty text if it can be used."""
    parent = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        return f"run.output_dir ({run_dir}): {parent} is not a folder that can be written to; name another."
    if not (run_dir / "metrics.jsonl").exists():
        return None
    if not (resume or overwrite):
        return (
            f"run.output_dir ({run_dir}) holds an earlier run; add --resume to go on with it, --overwrite to replace "
            "it, or name another folder."
        )
    if not resume:
        return None
    try:
        before = load_config(run_dir / "recipe.yaml")
    except UserError as error:  # raised here, on rank 0 alone, it would leave the others waiting
        return str(error)
    return "\n".join(
        f"{name}: {old!r} when the run began, {new!r} now; a resumed run keeps it. Undo that, or start another."
        for name, old, new in changes_of_the_past(before, config)
    )


def clear_run_dir(run_dir: Path, base: Path) -> None:
    """Delete what an earlier run wrote, and nothing else that may lie there.

    Args:
        run_dir: The run directory.
        base: The model that the new run starts from: it stays, if it lies there.
    """
    if rank() == 0:
        for extended in run_dir.glob(f"{EXTENDED}_*"):
            if extended != base:
                shutil.rmtree(extended)
        for name in ("checkpoints", "model", "stages"):
            shutil.rmtree(run_dir / name, ignore_errors=True)
        for name in ("metrics.jsonl", "samples.jsonl"):
            (run_dir / name).unlink(missing_ok=True)
    barrier()
