"""Reading by column gives what reading one by one gives: rows, broken rows, and errors."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.records import BadRow, CoTRecord, columns, read_records, to_text_line
from pipeline.records.columns import RecordColumns, parse_plain_block, read_columns
from pipeline.tasks import Multiplication

PIECES = [
    *("||", " #### ", "####", "|", "#", " ", "  ", "a", "1 2", "<<1+1=2>>", "<<1+1=2>> <<2+2=4>>", ">> <<", ">>", "<<"),
    *("é", "\t", "\r", "\x00", "\x7f", "\x85", "\u2028", "q||c #### 1", "q|| #### 1"),
]
GOOD = ["q||c #### 1", "1 * 2||a b <<1+1=2>> <<2+2=4>> c #### 3 4", "q|| #### 7", "  q || c ####  1 "]
LINES = st.sampled_from(GOOD) | st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
FILES = st.lists(LINES | st.sampled_from([*GOOD, ""]), max_size=8)
BLOCK_SIZES = st.sampled_from([1, 20, 50, columns.BYTES_AT_ONCE])


def read_both(path: Path, on_bad_row: str, source_format: str = "auto") -> list[object]:
    """Return what either way makes of a file: records and broken rows, or the error and what was noted before it."""
    found: list[object] = []
    for by_column in (False, True):
        bad_rows: list[BadRow] = []
        options = {"on_bad_row": on_bad_row, "bad_rows": bad_rows, "source_format": source_format}
        try:
            if by_column:
                batches = list(read_columns(str(path), **options))  # type: ignore[arg-type]
                assert all(len(batch) for batch in batches)
                records = [record for batch in batches for record in batch.records()]
            else:
                records = list(read_records(str(path), **options))  # type: ignore[arg-type]
            found.append((records, bad_rows))
        except UserError as error:
            found.append(str(error))
    return found


@settings(max_examples=200, deadline=None)
@given(FILES, BLOCK_SIZES, st.sampled_from(["stop", "skip"]), st.sampled_from(["", "\n", "\n\n", " \n"]), st.booleans())
def test_any_text_file_reads_alike(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], block: int, on_bad_row: str, end: str, marked: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes((b"\xef\xbb\xbf" if marked else b"") + "\n".join(lines).encode() + end.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "BYTES_AT_ONCE", block)
        one_by_one, by_column = read_both(path, on_bad_row)
    assert by_column == one_by_one


@settings(max_examples=100, deadline=None)
@given(st.lists(LINES, min_size=1, max_size=3))
def test_what_is_read_at_once_is_what_is_read_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "plain.txt"
    path.write_bytes("\n".join(lines).encode() + b"\n")
    rows = parse_plain_block(path.read_bytes())
    if rows is not None:
        assert rows.records() == list(read_records(str(path)))


def test_plain_rows_are_read_at_once() -> None:
    products = [Multiplication(4, 4).record_at(i) for i in range(100)]
    read = parse_plain_block("".join(to_text_line(record) + "\n" for record in products).encode())
    assert read is not None
    assert [(row.question, row.cot, row.answer) for row in read.records()] == [
        (row.question, row.cot, row.answer) for row in products
    ]
    read = parse_plain_block("\n".join(GOOD).encode())
    assert read is not None
    assert read.records() == [
        CoTRecord("q", ("c",), "1"),
        CoTRecord("1 * 2", ("a b <<1+1=2>>", "<<2+2=4>> c"), "3 4"),
        CoTRecord("q", (), "7"),
        CoTRecord("q", ("c",), "1"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        *(
            "",
            " ",
            "q",
            "q||c 1",
            "q||c||d #### 1",
            "q|||c #### 1",
            "q||c #### 1 #### 2",
            "q #### x||c 1",
            "q####||c #### 1",
        ),
        *(
            "||c #### 1",
            "q||c #### ",
            "q||c ##### 1",
            "q||c#### 1",
            "q||#### 1",
            "é||c #### 1",
            "q||c\td #### 1",
            "q||c #### 1\r",
        ),
    ],
)
def test_other_rows_are_not_read_at_once(line: str) -> None:
    assert parse_plain_block(f"q||c #### 1\n{line}\nq||c #### 1\n".encode()) is None


def test_other_formats_are_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "ROWS_AT_ONCE", 3)
    rows = [{"question": f"q{i}", "steps": ["a b", "c"][: i % 3], "answer": str(i)} for i in range(7)]
    for name, content in (("rows.jsonl", "\n".join(map(json.dumps, rows))), ("rows.json", json.dumps(rows))):
        (tmp_path / name).write_text(content)
        one_by_one, by_column = read_both(tmp_path / name, "stop")
        assert by_column == one_by_one
        assert [len(batch) for batch in read_columns(str(tmp_path / name), bad_rows=[])] == [3, 3, 1]
    (tmp_path / "lines.data").write_text("q||c #### 1\nbroken\n")
    one_by_one, by_column = read_both(tmp_path / "lines.data", "skip", "text")
    assert by_column == one_by_one
    assert read_both(tmp_path, "stop") == [f"{tmp_path}: is a directory; name a file in it."] * 2
    assert (
        read_both(tmp_path / "absent.txt", "stop", "text")
        == [f"{tmp_path}/absent.txt: no such file; check the path."] * 2
    )


def test_rows_are_taken_in_any_order() -> None:
    records = [CoTRecord("a", ("b", "c"), "d"), CoTRecord("e", (), "f"), CoTRecord("é", ("g",), "h")]
    rows = RecordColumns.of(records)
    assert len(rows) == 3
    assert rows.records() == records
    assert rows.take([2, 0, 2]).records() == [records[2], records[0], records[2]]  # type: ignore[arg-type]
    assert RecordColumns.of([]).records() == []
