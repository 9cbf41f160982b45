"""Whatever stands in a file: rows, or a mistake that names the file; no row vanishes."""

import codecs
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.records import BadRow, CoTRecord, columns, read_records, split_steps, streams, write_records
from pipeline.records.columns import read_columns
from pipeline.records.readers import format_of_file
from tests.fuzz.cases import fuzz, mutated
from tests.fuzz.rows import (
    CELLS,
    FILES,
    FORMATS,
    HEADERS,
    JSON_FILES,
    LINE_ENDS,
    NAMES,
    NUMBERS,
    PARQUET_FILES,
    QUOTING,
    RIGHT_OBJECTS,
    Cells,
    csv_table,
    elements,
    num_csv_rows,
    num_filled,
    num_lines,
    parquet_table,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


def written(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


def read(path: str, **options: Any) -> tuple[list[CoTRecord] | None, str]:
    """Return the records and no message, or no records and the user's mistake."""
    try:
        return list(read_records(path, **options)), ""
    except UserError as error:
        return None, str(error)


@fuzz
@given(FILES, NAMES, FORMATS)
def test_any_file_gives_rows_or_a_mistake_with_file_and_line(
    folder: Path, content: bytes, name: str, source_format: str
) -> None:
    path = written(folder, name, content)
    records, message = read(path, source_format=source_format)
    if records is None:
        place = re.match(rf"{re.escape(path)}(?::(\d+))?: ", message)
        assert place, message
        assert place[1] is None or 1 <= int(place[1]) <= content.count(b"\n") + 1
        assert place[1] is not None or "holds no rows" in message
        assert "\n" not in message and len(message) < 1000
    else:
        assert records


@fuzz
@given(FILES, NAMES, FORMATS)
def test_every_row_is_read_or_reported(folder: Path, content: bytes, name: str, source_format: str) -> None:
    path = written(folder, name, content)
    bad_rows: list[BadRow] = []
    records, message = read(path, source_format=source_format, on_bad_row="skip", bad_rows=bad_rows)
    found = format_of_file(path, source_format)  # type: ignore[arg-type]
    if found == "json":
        rows = elements(content)
        expected = None if rows is None else len(rows)
    elif found == "csv":
        expected = num_csv_rows(content)
    else:
        expected = num_lines(content)
        assert expected >= num_filled(content)
    numbers = [bad.line for bad in bad_rows]
    assert numbers == sorted(numbers)
    if records is not None:
        assert len(records) + len(bad_rows) == expected
        if found == "text":  # nothing is changed on the way
            assert all(text.encode() in content for row in records for text in (row.question, row.cot, row.answer))
    elif expected is not None:  # all of it could be cut into rows, but none was good
        assert len(bad_rows) == expected
        assert ("every row is broken" if expected else "holds no rows") in message
    else:
        assert re.search("not a valid JSON array|not UTF-8|not valid CSV|no column|two columns", message)


@fuzz
@given(
    st.lists(RIGHT_OBJECTS, min_size=1, max_size=5), LINE_ENDS, st.booleans(), st.sampled_from(["", "\n", "\n \n\n"])
)
def test_right_rows_are_all_read(folder: Path, rows: list[Any], line_end: str, is_marked: bool, end: str) -> None:
    mark = codecs.BOM_UTF8 if is_marked else b""
    expected = [CoTRecord(question, tuple(steps), answer) for _, question, steps, answer in rows]
    as_lines = line_end.join(json.dumps(row) for row, *_ in rows) + end
    assert read(written(folder, "rows.jsonl", mark + as_lines.encode())) == (expected, "")
    as_array = json.dumps([row for row, *_ in rows], indent=1, ensure_ascii=False).replace("\n", line_end) + end
    assert read(written(folder, "rows.json", mark + as_array.encode())) == (expected, "")
    plain = [row for row in expected if not {"|", "\n"} & set(f"{row.question}{row.cot}")]
    as_text = line_end.join(f"{row.question}||{row.cot} #### {row.answer}" for row in plain) + end
    if plain:
        records, message = read(written(folder, "rows.txt", mark + as_text.encode()))
        assert message == "" and records is not None
        fields = [[(row.question, row.cot, row.answer) for row in found] for found in (records, plain)]
        assert fields[0] == fields[1]


@fuzz
@given(HEADERS, st.lists(CELLS, min_size=1, max_size=5), QUOTING, LINE_ENDS, st.booleans())
def test_right_tables_are_all_read(
    folder: Path, header: tuple[str, ...], rows: Cells, quoting: Any, line_end: str, is_marked: bool
) -> None:
    expected = [CoTRecord(question, split_steps(cot), answer) for question, cot, answer in rows]
    mark = codecs.BOM_UTF8 if is_marked else b""
    assert read(written(folder, "rows.csv", mark + csv_table(header, rows, quoting, line_end))) == (expected, "")
    assert read(written(folder, "rows.parquet", parquet_table(header, rows, "snappy"))) == (expected, "")


@fuzz
@given(PARQUET_FILES | mutated(PARQUET_FILES) | FILES, st.sampled_from(["stop", "skip"]))
def test_any_file_named_parquet_gives_rows_or_a_mistake(folder: Path, content: bytes, on_bad_row: str) -> None:
    path = written(folder, "rows.parquet", content)
    bad_rows: list[BadRow] = []
    records, message = read(path, on_bad_row=on_bad_row, bad_rows=bad_rows)
    if records is None:
        assert re.match(
            rf"{re.escape(path)}(: (not a whole Parquet file|no column|two columns|holds no rows|every row)|:\d+: )",
            message,
        )
        assert "\n" not in message and len(message) < 1000
    else:
        assert records


@fuzz
@given(FILES, NAMES, FORMATS, st.sampled_from(["stop", "skip"]))
def test_reading_by_column_gives_the_same(
    folder: Path, content: bytes, name: str, source_format: str, on_bad_row: str
) -> None:
    path = written(folder, name, content)
    bad_rows: list[BadRow] = []
    bad_rows_by_column: list[BadRow] = []
    options: dict[str, Any] = {"source_format": source_format, "on_bad_row": on_bad_row}
    records, message = read(path, bad_rows=bad_rows, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "BYTES_AT_ONCE", 30)
        try:
            batches = list(read_columns(path, bad_rows=bad_rows_by_column, **options))
        except UserError as error:
            assert str(error) == message
        else:
            assert [record for batch in batches for record in batch.records()] == records
            assert bad_rows_by_column == bad_rows


@fuzz
@given(FILES | JSON_FILES | NUMBERS, st.integers(1, 9))
def test_a_json_array_reads_alike_in_chunks_of_any_size(folder: Path, content: bytes, chunk: int) -> None:
    path = written(folder, "rows.json", content)
    whole = read(path, source_format="json", on_bad_row="skip", bad_rows=[])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "CHUNK_BYTES", chunk)
        in_chunks = read(path, source_format="json", on_bad_row="skip", bad_rows=[])
    if "not UTF-8" not in whole[1]:  # what else is wrong before that place, in the same chunk, is not looked at
        assert in_chunks == whole


@fuzz
@given(FILES, NAMES)
def test_the_format_that_is_guessed_can_be_named(folder: Path, content: bytes, name: str) -> None:
    path = written(folder, name, content)
    guessed = format_of_file(path, "auto")
    assert guessed in ("text", "jsonl", "json", "csv")
    assert read(path, source_format=guessed) == read(path)


@fuzz
@given(FILES, NAMES, FORMATS)
def test_what_was_read_is_written_so_that_it_reads_back(
    folder: Path, content: bytes, name: str, source_format: str
) -> None:
    records, _ = read(written(folder, name, content), source_format=source_format, on_bad_row="skip", bad_rows=[])
    if records is None:
        return
    write_records(folder / "again.jsonl", records)
    assert read(str(folder / "again.jsonl")) == (records, "")
    for record in records:
        try:
            write_records(folder / "again.txt", [record])
        except UserError as error:
            assert "read back" in str(error)
        else:
            (again,) = read_records(str(folder / "again.txt"))  # text does not tell where a step ends
            assert (again.question, again.cot, again.answer) == (record.question, record.cot, record.answer)


NO_NAMES = st.sampled_from(["\0", "\ud800", "\udcff", "a" * 250, "é" * 130, "a\nb", " ", "."])


@fuzz
@given(st.lists(NO_NAMES | st.text(st.characters(exclude_characters="/"), max_size=5), max_size=3).map("".join))
def test_any_name_of_a_file_that_is_not_there_is_a_mistake(name: str) -> None:
    path = f"/nowhere/{name}.txt"
    assert format_of_file(path, "auto") == "auto"
    records, message = read(path)
    assert records is None and message.startswith(f"{path}: ")
