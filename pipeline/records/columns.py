"""Records by column, a batch at a time: read and tokenised without a Python object for each row."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.records.readers import BadRow, Conversion, OnBadRow, SourceFormat, format_of_file, read_records
from pipeline.records.record import CoTRecord
from pipeline.records.rows import OWN_NAMES, decoded, parse_text_row
from pipeline.records.streams import numbered_blocks, numbered_lines, open_for_reading

STEPS = pa.list_(pa.string())
ROWS_AT_ONCE = 4096
BYTES_AT_ONCE = 1 << 20  # of a text file


@dataclass(frozen=True, slots=True)
class RecordColumns:
    """The records of a batch. All columns have one entry a row."""

    questions: pa.Array
    """Strings."""
    steps: pa.Array
    """Lists of strings; empty where there is no chain of thought."""
    answers: pa.Array
    """Strings."""

    def __len__(self) -> int:
        return len(self.questions)

    @classmethod
    def of(cls, records: Iterable[CoTRecord]) -> "RecordColumns":
        """Return records by column."""
        rows = [(record.question, record.steps, record.answer) for record in records]
        questions, steps, answers = zip(*rows, strict=True) if rows else ((), (), ())
        return cls(pa.array(questions, pa.string()), pa.array(steps, STEPS), pa.array(answers, pa.string()))

    def take(self, rows: np.ndarray) -> "RecordColumns":
        """Return the rows with the given numbers, in that order."""
        return RecordColumns(self.questions.take(rows), self.steps.take(rows), self.answers.take(rows))

    def records(self) -> list[CoTRecord]:
        """Return the rows as records."""
        columns = (self.questions.to_pylist(), map(tuple, self.steps.to_pylist()), self.answers.to_pylist())
        return [CoTRecord(*fields) for fields in zip(*columns, strict=True)]


def read_columns(
    source: str,
    *,
    source_format: SourceFormat = "auto",
    split: str = "train",
    columns: Mapping[str, str] = OWN_NAMES,
    on_bad_row: OnBadRow = "stop",
    bad_rows: list[BadRow],
) -> Iterator[RecordColumns]:
    """Read what ``read_records`` reads, some thousand rows at a time.

    Args:
        source: As in ``read_records``.
        source_format: As in ``read_records``.
        split: As in ``read_records``.
        columns: As in ``read_records``.
        on_bad_row: As in ``read_records``.
        bad_rows: Where skipped rows are noted.

    Raises:
        UserError: As ``read_records`` does.
    """
    if format_of_file(source, source_format) == "text":
        yield from _text_columns(Path(source), None if on_bad_row == "stop" else bad_rows)
        return
    records = read_records(
        source, source_format=source_format, split=split, columns=columns, on_bad_row=on_bad_row, bad_rows=bad_rows
    )
    while batch := list(islice(records, ROWS_AT_ONCE)):
        yield RecordColumns.of(batch)


def _text_columns(path: Path, bad_rows: list[BadRow] | None) -> Iterator[RecordColumns]:
    conversion = Conversion(str(path), bad_rows)
    with open_for_reading(path) as handle:
        for first, block in numbered_blocks(handle, BYTES_AT_ONCE):
            columns = parse_plain_block(block)
            if columns is None:
                lines = numbered_lines(BytesIO(block), first)
                columns = RecordColumns.of(conversion.records(lines, decoded(parse_text_row)))
            else:
                conversion.num_good += len(columns)
            if len(columns):
                yield columns
    conversion.finish()


def parse_plain_block(block: bytes) -> RecordColumns | None:
    """Read lines of ``question||cot #### answer`` all at once, as ``parse_text_row`` does one by one.

    Returns:
        The rows; None if any line is not plain: with other than printable ASCII characters, or not of this form.
    """
    characters = np.frombuffer(block, np.uint8)
    num_control = np.count_nonzero(characters < ord(" "))
    if characters.max() > ord("~") or num_control != block.count(b"\n"):
        return None
    rows = pc.split_pattern(pa.array([block.removesuffix(b"\n")], pa.string()), "\n").flatten()
    halves = _cut(rows, "||")
    if halves is None or pc.any(pc.starts_with(halves[1], "|")).as_py():  # `|||` could be cut in two ways
        return None
    parts = _cut(halves[1], " #### ")
    if parts is None:
        return None
    questions, cots, answers = (pc.ascii_trim(column, " ") for column in (halves[0], *parts))
    if any(pc.any(pc.match_substring(column, "####")).as_py() for column in (questions, cots, answers)):
        return None
    if any(pc.any(pc.equal(column, "")).as_py() for column in (questions, answers)):
        return None
    return RecordColumns(questions, _split_steps(cots), answers)


def _cut(texts: pa.Array, separator: str) -> tuple[pa.Array, pa.Array] | None:
    """Return what stands before and behind a separator; None unless every text holds exactly one."""
    pieces = pc.split_pattern(texts, separator)
    if pc.any(pc.not_equal(pc.list_value_length(pieces), 2)).as_py():
        return None
    flat = pieces.flatten()
    return flat.take(np.arange(0, len(flat), 2)), flat.take(np.arange(1, len(flat), 2))


def _split_steps(cots: pa.Array) -> pa.Array:
    """Split plain chains of thought as ``split_steps`` does."""
    pieces = pc.split_pattern(pc.replace_substring(cots, ">> <<", ">>\n<<"), "\n")
    lengths = pc.list_value_length(pieces).to_numpy(zero_copy_only=False) - pc.equal(cots, "").to_numpy(
        zero_copy_only=False
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    flat = pieces.flatten()
    return pa.ListArray.from_arrays(offsets, flat.filter(pc.not_equal(flat, "")))
