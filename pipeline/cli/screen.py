"""Where commands print what people read, and how their tables look."""

import sys

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table


def open_screen(width: int = 100) -> Console:
    """Return a console on standard output that prints text as it is, names in brackets or between colons, too.

    Args:
        width: Columns where standard output is no terminal.
    """
    return Console(width=None if sys.stdout.isatty() else width, highlight=False, markup=False, emoji=False)


def compact_table(*columns: Column | str, title: str | None = None) -> Table:
    """Return an empty table with a rule under its headings and no other lines."""
    return Table(*columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, title_justify="left")


def figures(*headings: str) -> list[Column]:
    """Return columns of numbers, which are never broken."""
    return [Column(heading, justify="right", no_wrap=True) for heading in headings]
