"""How rows are read, as options of the commands that have no recipe."""

from dataclasses import asdict, fields
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from pipeline.config import ColumnsConfig
from pipeline.config.checks import check_column_names
from pipeline.errors import UserError
from pipeline.records import SourceFormat
from pipeline.records.readers import format_of_file, is_on_hub


def add_column_options(parser: ArgumentParser) -> None:
    """Add ``--columns.question`` and its like."""
    for field in fields(ColumnsConfig):
        parser.add_argument(
            f"--columns.{field.name}", type=str, default=field.name, help=f"What the rows call `{field.name}`."
        )


def columns_of(options: Namespace) -> ColumnsConfig:
    """Return what the options say.

    Raises:
        UserError: If a name is empty, or stands for two fields.
    """
    names = vars(options.columns)
    if faults := list(check_column_names(names, "--columns")):
        raise UserError("\n".join(faults))
    return ColumnsConfig(**names)


def check_source_options(source: str, source_format: SourceFormat, split: str | None, columns: ColumnsConfig) -> None:
    """Refuse an option that the source has no use for.

    Args:
        source: A file or a Hub name.
        source_format: ``--source_format``.
        split: ``--split``; None if it was not given.
        columns: ``--columns``.

    Raises:
        UserError: If a file is to have splits, or rows of text are to have columns.
    """
    if split is not None and Path(source).is_file() and not is_on_hub(source, source_format):
        raise UserError(f"--split ({split}): {source} is a file, and only data sets on the Hub have splits; drop it.")
    if format_of_file(source, source_format) != "text":
        return
    for name, column in asdict(columns).items():
        if column != name:
            raise UserError(
                f"--columns.{name} ({column}): {source} is text (`question||cot #### answer`), which names no columns; "
                "drop it, or name another --source_format."
            )
