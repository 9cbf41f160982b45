"""Writing records so that they read back, and dividing existing rows into splits."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.records import (
    CoTRecord,
    check_output_path,
    draw_held_out,
    read_records,
    split_steps,
    to_json_line,
    to_text_line,
    write_records,
)

TEXT = "2 apples, 3 more?||<<2+3=5>> <<5*2=10>> #### 10\n1 1 * 2 2||x + y #### 2 4 2\nno reasoning|| #### 7\n"
RECORDS = [
    CoTRecord("2 apples, 3 more?", ("<<2+3=5>>", "<<5*2=10>>"), "10"),
    CoTRecord("1 1 * 2 2", ("x + y",), "2 4 2"),
    CoTRecord("no reasoning", (), "7"),
]
plain_text = st.text(st.characters(codec="utf-8")).map(str.strip)


@settings(deadline=None)
@given(plain_text, plain_text, plain_text)
def test_what_text_accepts_reads_back_and_nothing_good_is_refused(
    tmp_path_factory: pytest.TempPathFactory, question: str, cot: str, answer: str
) -> None:
    record = CoTRecord(question, split_steps(cot), answer)
    path = tmp_path_factory.getbasetemp() / "round_trip.txt"
    try:
        line = to_text_line(record)
    except UserError:
        fields = (question, cot, answer)
        assert not question or not answer or any(mark in f for f in fields for mark in ("|", "#", "\n", "\r"))
        return
    path.write_bytes(line.encode() + b"\n")
    assert list(read_records(str(path))) == [record]


@settings(deadline=None)
@given(plain_text.filter(bool), st.lists(plain_text.filter(bool)), plain_text.filter(bool))
def test_json_lines_read_back(
    tmp_path_factory: pytest.TempPathFactory, question: str, steps: list[str], answer: str
) -> None:
    record = CoTRecord(question, tuple(steps), answer)
    path = tmp_path_factory.getbasetemp() / "round_trip.jsonl"
    path.write_bytes(to_json_line(record).encode() + b"\n")
    assert list(read_records(str(path))) == [record]


@pytest.mark.parametrize(
    "record",
    [
        CoTRecord("a||b", (), "1"),
        CoTRecord("a", ("b #### c",), "1"),
        CoTRecord("a", ("b",), "1\n2"),
        CoTRecord("a\r", ("b",), "1"),
        CoTRecord("a|", ("b",), "1"),
        CoTRecord("a", ("|b",), "1"),
        CoTRecord(" a", ("b",), "1"),
        CoTRecord("", ("b",), "1"),
    ],
)
def test_text_that_would_not_read_back_is_refused(record: CoTRecord) -> None:
    with pytest.raises(UserError):
        to_text_line(record)


def test_published_form() -> None:
    assert [to_text_line(record) for record in RECORDS] == TEXT.splitlines()


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_files_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"rows{suffix}"
    assert write_records(path, RECORDS) == 3
    assert list(read_records(str(path))) == RECORDS
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("old")
    with pytest.raises(UserError, match="would not read back"):
        write_records(path, [*RECORDS, CoTRecord("a\nb", (), "1")])
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.txt"]


def test_unknown_extension_and_blocked_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown extension '\.csv'"):
        write_records(tmp_path / "rows.csv", RECORDS)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_records(tmp_path / "file" / "rows.txt", RECORDS)


def test_folders_and_existing_files_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UserError, match="is a directory"):
        check_output_path(tmp_path / "folder.txt", overwrite=True)
    (tmp_path / "rows.txt").write_text("old")
    with pytest.raises(UserError, match="exists already"):
        check_output_path(tmp_path / "rows.txt", overwrite=False)
    check_output_path(tmp_path / "rows.txt", overwrite=True)


@pytest.mark.parametrize("length", [245, 300])  # the first has room for the file, not for what is written beside it
def test_a_name_that_is_too_long_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        write_records(tmp_path / ("a" * length + ".txt"), RECORDS)


# Dividing existing rows


def test_held_out_questions_are_drawn_by_question() -> None:
    questions = [f"q{i % 50}" for i in range(200)]
    drawn = draw_held_out(questions, {"validation": 10, "test": 5}, seed=1)
    assert Counter(drawn.values()) == {"validation": 10, "test": 5}
    assert set(drawn) < set(questions)
    assert draw_held_out(questions, {"validation": 10, "test": 5}, seed=1) == drawn
    assert draw_held_out(questions, {"validation": 10, "test": 5}, seed=2) != drawn
    with pytest.raises(UserError, match="must be below the 50 different questions"):
        draw_held_out(questions, {"validation": 50}, seed=1)
