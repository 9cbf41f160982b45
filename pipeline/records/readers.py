"""Reads records from text, JSONL, JSON arrays, CSV, Parquet, GSM8K's own files, and the Hub, one row at a time."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, TypeVar

from pipeline.errors import UserError, in_one_line
from pipeline.records.record import CoTRecord
from pipeline.records.rows import (
    OWN_NAMES,
    RowError,
    decoded,
    parse_json,
    parse_text_row,
    record_from_gsm8k,
    record_from_object,
)
from pipeline.records.streams import numbered_elements, numbered_lines, open_for_reading
from pipeline.records.tables import numbered_csv_rows, numbered_parquet_rows, row_or_fault

SourceFormat = Literal["auto", "text", "jsonl", "json", "csv", "parquet", "gsm8k", "hub"]
OnBadRow = Literal["stop", "skip"]
Row = TypeVar("Row")

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
FORMATS_BY_SUFFIX: dict[str, SourceFormat] = {".txt": "text", ".csv": "csv", ".parquet": "parquet"}
FILE_SUFFIXES = (*FORMATS_BY_SUFFIX, ".json", ".jsonl")


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was skipped."""

    source: str
    """File, or Hub name with split."""
    line: int
    """Line of the file, or row of the split or the Parquet file, from 1."""
    reason: str
    """What is wrong, and the remedy."""

    def __str__(self) -> str:
        """Return ``file:line: reason.``."""
        return f"{self.source}:{self.line}: {self.reason}."


def read_records(
    source: str,
    *,
    source_format: SourceFormat = "auto",
    split: str = "train",
    columns: Mapping[str, str] = OWN_NAMES,
    on_bad_row: OnBadRow = "stop",
    bad_rows: list[BadRow] | None = None,
) -> Iterator[CoTRecord]:
    """Read records in the order of the source, in constant memory.

    Args:
        source: A file, or a Hub name ``owner/name`` or ``owner/name:config``. An existing path is a file.
        source_format: ``text`` (``question||cot #### answer``); ``jsonl``, ``json`` (array), ``csv``, ``parquet`` or
            ``hub`` with ``question``, ``answer`` and ``cot`` or ``steps``, or with ``messages``; ``gsm8k`` (GSM8K's own
            rows, file or Hub); or ``auto``: by extension and first character.
        split: Split of a data set on the Hub.
        columns: What each of these fields is called in the source; text has no names.
        on_bad_row: ``stop`` raises at the first broken row; ``skip`` notes it in ``bad_rows`` and goes on.
        bad_rows: Where skipped rows are noted; needed with ``skip``, so that no row vanishes silently.

    Returns:
        The records, with blanks around question, steps and answer dropped.

    Raises:
        UserError: If the source cannot be read or holds no good row, or at a broken row.
    """
    if on_bad_row == "skip" and bad_rows is None:
        raise ValueError("on_bad_row='skip' needs a bad_rows list, or skipped rows would vanish silently.")
    noted = bad_rows if on_bad_row == "skip" else None
    if is_on_hub(source, source_format):
        return _read_hub(source, source_format, split, columns, noted)
    path = Path(source)
    if not os.path.exists(path) or os.path.isdir(path):
        with open_for_reading(path):  # raises now rather than at the first row
            pass
    return _read_file(path, source_format, columns, noted)


def format_of_file(source: str, source_format: SourceFormat) -> SourceFormat:
    """Return the format that a source is read in; ``auto`` if it is no readable file, ``hub`` if it is on the Hub."""
    path = Path(source)
    if source_format != "auto" or not os.path.isfile(path):
        return source_format
    with open_for_reading(path) as handle:
        return _detect_format(path, handle.peek(1024))


def is_on_hub(source: str, source_format: SourceFormat) -> bool:
    """Return whether a source is a Hub name, and no file."""
    if source_format not in ("auto", "gsm8k"):
        return source_format == "hub"
    return not os.path.exists(source) and bool(HUB_NAME.fullmatch(source)) and not source.endswith(FILE_SUFFIXES)


def _read_file(
    path: Path, source_format: SourceFormat, columns: Mapping[str, str], bad_rows: list[BadRow] | None
) -> Iterator[CoTRecord]:
    with open_for_reading(path) as handle:
        if source_format == "auto":
            source_format = _detect_format(path, handle.peek(1024))
        rows, convert = _rows_of(handle, str(path), source_format, columns)
        yield from _convert(rows, convert, str(path), bad_rows)


def _rows_of(
    handle: BufferedReader, source: str, source_format: SourceFormat, columns: Mapping[str, str]
) -> tuple[Iterable[tuple[int, Any]], Callable[[Any], CoTRecord]]:
    """Return the numbered raw rows of a file, and what makes a record of one."""
    from_object = _from_object(source_format, columns)
    match source_format:
        case "text":
            return numbered_lines(handle), decoded(parse_text_row)
        case "json":
            return numbered_elements(handle, source), from_object
        case "csv":
            return numbered_csv_rows(handle, source, columns), lambda row: from_object(row_or_fault(row))
        case "parquet":
            return numbered_parquet_rows(handle, source, columns), lambda row: from_object(row_or_fault(row))
        case _:
            return numbered_lines(handle), decoded(lambda line: from_object(parse_json(line)))


def _from_object(source_format: SourceFormat, columns: Mapping[str, str]) -> Callable[[object], CoTRecord]:
    return partial(record_from_gsm8k if source_format == "gsm8k" else record_from_object, names=columns)


def _detect_format(path: Path, head: bytes) -> SourceFormat:
    """Tell the format from extension and beginning; a question in a ``.txt`` file may begin with any bracket."""
    if path.suffix in FORMATS_BY_SUFFIX:
        return FORMATS_BY_SUFFIX[path.suffix]
    first = head.decode("utf-8-sig", errors="ignore").lstrip()[:1]
    if path.suffix not in FILE_SUFFIXES and first not in ("{", "["):
        return "text"
    return "json" if first == "[" else "jsonl"


def _read_hub(
    source: str, source_format: SourceFormat, split: str, columns: Mapping[str, str], bad_rows: list[BadRow] | None
) -> Iterator[CoTRecord]:
    rows, convert = enumerate(_hub_rows(source, split), start=1), _from_object(source_format, columns)
    yield from _convert(rows, convert, f"{source}[{split}]", bad_rows)


def _hub_rows(source: str, split: str) -> Iterator[dict[str, Any]]:
    import datasets  # takes seconds, and only Hub names need it

    name, _, config = source.partition(":")
    try:
        yield from datasets.load_dataset(name, config or None, split=split, streaming=True)
    except Exception as error:  # whatever the library, the network or the data set's files raise
        raise UserError(
            f"{source}: neither a file here nor a Hub data set whose split {split!r} could be read "
            f"({in_one_line(error)}); check path or name (`owner/name:config`), split and network."
        ) from error


def _convert(
    rows: Iterable[tuple[int, Row]],
    convert: Callable[[Row], CoTRecord],
    source: str,
    bad_rows: list[BadRow] | None,
) -> Iterator[CoTRecord]:
    conversion = Conversion(source, bad_rows)
    yield from conversion.records(rows, convert)
    conversion.finish()


class Conversion:
    """Converts numbered raw rows; a broken one is noted in ``bad_rows``, or raises where that is None."""

    def __init__(self, source: str, bad_rows: list[BadRow] | None) -> None:
        self.num_good = 0
        self._source, self._bad_rows = source, bad_rows
        self._first_bad: BadRow | None = None

    def records(self, rows: Iterable[tuple[int, Row]], convert: Callable[[Row], CoTRecord]) -> Iterator[CoTRecord]:
        """Yield the record of each good row.

        Raises:
            UserError: At a broken row, where they are not noted.
        """
        for line, row in rows:
            try:
                record = convert(row)
            except RowError as error:
                bad_row = BadRow(self._source, line, str(error))
                if self._bad_rows is None:
                    raise UserError(str(bad_row)) from error
                self._first_bad = self._first_bad or bad_row
                self._bad_rows.append(bad_row)
            else:
                self.num_good += 1
                yield record

    def finish(self) -> None:
        """Refuse a source without any good row.

        Raises:
            UserError: If there was none.
        """
        if self._first_bad and not self.num_good:
            raise UserError(f"{self._source}: every row is broken, the first being {self._first_bad}")
        if not self.num_good:
            raise UserError(f"{self._source}: holds no rows; name a source with at least one.")
