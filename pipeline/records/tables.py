"""Cuts tables (CSV, Parquet) into numbered rows, a part of the file at a time."""

import codecs
import csv
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from io import BufferedReader
from typing import Any

from pipeline.errors import UserError, in_one_line, shortened
from pipeline.records.row_error import RowError
from pipeline.records.streams import MAX_ELEMENT_CHARACTERS

ROWS_AT_ONCE = 1024  # of a Parquet file
MOST_TOLD = 200  # characters of an error, or of the columns there are
NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of such bytes
TableRow = dict[str, Any] | RowError
"""Column name to value, or what is wrong with the row."""


def numbered_csv_rows(handle: Iterable[bytes], source: str, names: Mapping[str, str]) -> Iterator[tuple[int, TableRow]]:
    """Yield each row of comma-separated values with the line it begins on. Quoted cells may hold line breaks.

    Args:
        handle: The file's lines; the first that is not blank names the columns.
        source: The file's name, for messages.
        names: Field to column.

    Raises:
        UserError: If a column is missing, or cells are not quoted rightly: nothing can be skipped then, because where
            the next row begins is unknown.
    """
    rows = _csv_cells(handle, source)
    line, header = next((row for row in rows if not _is_blank(row[1])), (0, []))
    if not header:
        return
    _check_columns(header, names, f"{source}:{line}")
    places = {name: header.index(name) for name in names.values() if name in header}
    num_blank = 0
    for line, cells in rows:
        if _is_blank(cells):
            num_blank += 1
            continue
        for blank in range(line - num_blank, line):
            yield blank, RowError("blank line between rows; delete it")
        num_blank = 0
        yield line, _csv_row(cells, len(header), places)


def _csv_cells(handle: Iterable[bytes], source: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(MAX_ELEMENT_CHARACTERS)
    reader = csv.reader(_text_lines(handle), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"{source}:{line}: not valid CSV in the row that begins here ({error}); quote cells that hold commas, "
                "quotes or line breaks, and double the quotes in them."
            ) from error
        yield line, cells


def _text_lines(handle: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(handle):
        text = line if number else line.removeprefix(codecs.BOM_UTF8)
        yield text.decode("utf-8", "surrogateescape")  # so that a broken row can be told, and skipped


def _is_blank(cells: list[str]) -> bool:
    return not cells or (len(cells) == 1 and not cells[0].strip())


def _csv_row(cells: list[str], num_columns: int, places: Mapping[str, int]) -> TableRow:
    if len(cells) != num_columns:
        return RowError(f"{len(cells)} cells in a table of {num_columns} columns; quote cells that hold commas")
    row = {name: cells[place] for name, place in places.items()}
    if any(not cell.isascii() and NOT_UTF8.search(cell) for cell in row.values()):
        return RowError("not UTF-8; save the file as UTF-8")
    return row


def numbered_parquet_rows(
    handle: BufferedReader, source: str, names: Mapping[str, str]
) -> Iterator[tuple[int, TableRow]]:
    """Yield each row of a Parquet file with its number, from 1. Columns without a field are not read.

    Args:
        handle: The file.
        source: Its name, for messages.
        names: Field to column.

    Raises:
        UserError: If a column is missing, or the file is damaged: its rows lie in blocks, so none can be skipped.
    """
    import pyarrow.parquet  # takes a tenth of a second

    try:
        file = pyarrow.parquet.ParquetFile(handle)
        columns = list(file.schema_arrow.names)
    except Exception as error:  # whatever the library makes of damaged bytes
        raise _damaged(source, error) from error
    _check_columns(columns, names, source)
    num_rows = 0
    batches = file.iter_batches(ROWS_AT_ONCE, columns=[name for name in names.values() if name in columns])
    while True:
        try:
            batch = next(batches, None)
        except Exception as error:
            raise _damaged(source, error) from error
        if batch is None:
            return
        yield from enumerate(_parquet_rows(batch), start=num_rows + 1)
        num_rows += len(batch)


def _parquet_rows(batch: Any) -> Iterator[TableRow]:
    """Yield the rows of an Arrow batch; only if one is broken, they are looked at one by one."""
    try:
        rows = batch.to_pylist()
    except Exception:  # in one of the rows; `_parquet_row` says what
        rows = (_parquet_row(batch.slice(place, 1)) for place in range(len(batch)))
    yield from rows


def _parquet_row(row: Any) -> TableRow:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError:
        return RowError("not UTF-8; write the texts as UTF-8")
    except Exception as error:  # dates and numbers that Python cannot hold
        return RowError(f"not readable ({shortened(in_one_line(error), MOST_TOLD)}); write texts")


def _damaged(source: str, error: Exception) -> UserError:
    cause = shortened(in_one_line(error), MOST_TOLD)
    return UserError(f"{source}: not a whole Parquet file ({cause}); write it again, or as JSONL.")


def _check_columns(columns: Sequence[str], names: Mapping[str, str], place: str) -> None:
    """Refuse a table that no row can be read from.

    Raises:
        UserError: If it has no column for question or answer, or two of one name.
    """
    wanted = [names["question"], names["answer"]]
    missing = [] if names["messages"] in columns else [name for name in wanted if name not in columns]
    if missing:
        raise UserError(
            f"{place}: no column `{missing[0]}` ({_listed(columns)}); tell with columns.* what it is called."
        )
    twice = [name for name in names.values() if columns.count(name) > 1]
    if twice:
        raise UserError(f"{place}: two columns are called `{twice[0]}`; rename one.")


def _listed(columns: Collection[str]) -> str:
    return f"its columns: {shortened(', '.join(map(repr, columns)), MOST_TOLD)}"


def row_or_fault(row: TableRow) -> dict[str, Any]:
    """Return a row that is right so far.

    Raises:
        RowError: If it is not.
    """
    if isinstance(row, RowError):
        raise row
    return row
