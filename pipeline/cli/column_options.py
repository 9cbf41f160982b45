"""What rows call their fields, as options of the commands that have no recipe."""

from dataclasses import fields

from jsonargparse import ArgumentParser, Namespace

from pipeline.config import ColumnsConfig
from pipeline.config.checks import check_column_names
from pipeline.errors import UserError


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
