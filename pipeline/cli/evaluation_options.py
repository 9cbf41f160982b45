"""What the commands that evaluate saved models share: options for rows and decoding, and the start of the ranks."""

import os
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from pipeline.cli.local_ranks import set_up_log
from pipeline.cli.source_options import add_column_options, check_source_options, columns_of
from pipeline.config import DataConfig
from pipeline.errors import UserError
from pipeline.records import OnBadRow, SourceFormat

MINIMUMS = {"num_removed": 0, "num_examples": 1, "num_timed": 1, "batch_size": 1}


def add_evaluation_options(parser: ArgumentParser) -> None:
    """Add the options for rows and decoding."""
    add = parser.add_argument
    add("--data", type=str, required=True, help="Unseen rows: a file, or a Hub name.")
    add("--split", type=str, default=None, help="Split of a Hub data set; test if not given.")
    add("--source_format", type=SourceFormat, default="auto", help="Format of the rows.")
    add_column_options(parser)
    add("--on_bad_row", type=OnBadRow, default="stop", help="What a broken row does.")
    add("--num_examples", type=int, default=None, help="Rows used, from the first; all if not given.")
    add("--batch_size", type=int, default=256, help="Rows decoded together for accuracy.")
    add(
        "--verify",
        type=bool,
        default=True,
        help="For accuracy, try the reference answers first, and decode only from where the model disagrees: the same "
        "answers, sooner. Speed at batch size 1 never sees them.",
    )
    add("--trust_remote_code", action="store_true", help="Run Python code that comes with the models.")
    add("--quiet", action="store_true", help="Do not tell of each model as it is evaluated.")


def check_counts(options: Namespace) -> None:
    """Refuse counts that are too small.

    Raises:
        UserError: Naming the first of them.
    """
    for name, minimum in MINIMUMS.items():
        value = options.get(name)
        if value is not None and value < minimum:
            raise UserError(f"--{name} ({value}) must be at least {minimum}; raise it.")


def rows_of(options: Namespace) -> DataConfig:
    """Return where the rows are, and how they are read.

    Raises:
        UserError: If columns are not named rightly, or the rows have no use for an option.
    """
    columns = columns_of(options)
    check_source_options(options.data, options.source_format, options.split, columns)
    return DataConfig(
        validation=options.data,
        validation_split=options.split or "test",
        source_format=options.source_format,
        columns=columns,
        on_bad_row=options.on_bad_row,
    )


def start_ranks(quiet: bool) -> None:
    """Join the other ranks, if a launcher has started any; the first tells what goes on, unless ``quiet``."""
    from transformers.utils.logging import disable_progress_bar

    from pipeline.engine import init_distributed

    set_up_log(quiet)
    disable_progress_bar()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        init_distributed()


def check_result_file(path: Path) -> None:
    """Refuse a path that no file can be written to, before any work is done for it.

    Raises:
        UserError: If a folder stands there, or it lies where nothing can be written.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder stands where the result belongs; name another file.")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(path if path.exists() else parent, os.W_OK):
        raise UserError(f"{path}: cannot be written to; name another file.")


def is_record_of_run(path: Path) -> bool:
    """Return whether a training run has written a file, and goes on with it when it is resumed."""
    from pipeline.recorder import FILES

    return path.name in FILES and all((path.parent / name).is_file() for name in ("recipe.yaml", *FILES))


def check_result_place(folder: Path, name: str) -> None:
    """Refuse a run directory that its result, a file of this name, cannot be written to, before work is done for it.

    Raises:
        UserError: If it is not there, or is read-only, or a folder of that name stands in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such run directory; check the path.")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: cannot be written to, and the result belongs there; take a copy of the run.")
    check_result_file(folder / name)
