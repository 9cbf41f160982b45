"""A table of the page, and how its cells are written."""

from collections.abc import Sequence
from dataclasses import dataclass

UNKNOWN = "–"


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose first column names its rows."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: frozenset[int] = frozenset()
    """Columns of words; all others are figures, and set flush right. The first column is words always."""


def interval(ends: Sequence[float]) -> str:
    """Return the ends of an interval of shares, in percent."""
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"


def figure(value: float | None) -> str:
    """Return a number in four figures."""
    return UNKNOWN if value is None else f"{value:.4g}"


def decimal(value: float | None, decimals: int) -> str:
    """Return a number with so many decimals."""
    return UNKNOWN if value is None else f"{value:,.{decimals}f}"
