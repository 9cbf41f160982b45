"""Broken rows and files: named with file, line and remedy, or noted; none vanishes."""

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.records import BadRow, CoTRecord, read_records, streams


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


BROKEN_TEXT = {
    "no bars": ("question #### 1", "no `||`"),
    "second bars": ("q||c||d #### 1", "second `||`"),
    "three bars": ("q|||c #### 1", "second `||`"),
    "no marker": ("q||c 1", "no `####`"),
    "second marker": ("q||c #### 1 #### 2", "second `####`"),
    "five hashes": ("q||c ##### 1", "second `####`"),
    "marker in question": ("q #### x||c 1", "`####` must come after"),
    "marker glued": ("q||c####1", "`####` must come after"),
    "empty question": (" ||c #### 1", "empty question"),
    "empty answer": ("q||c ####", "empty answer"),
    "carriage return": ("q||c\rd #### 1", "line break"),
    "blank": ("", "blank line"),
    "only blanks": (" \t", "blank line"),
    "bad UTF-8": (b"q||\xff #### 1", "not UTF-8"),
}
BROKEN_JSON = {
    "not JSON": ("{'question': 1}", "not valid JSON"),
    "cut off": ('{"question": "q"', "not valid JSON"),
    "array": ("[1]", "holds a list"),
    "no question": ('{"answer": "1", "cot": "c"}', "no `question`"),
    "null question": ('{"question": null, "answer": "1", "cot": "c"}', "no `question`"),
    "no answer": ('{"question": "q", "cot": "c"}', "no `answer`"),
    "neither": ('{"question": "q", "answer": "1"}', "neither `cot` nor `steps`"),
    "both": ('{"question": "q", "answer": "1", "cot": "c", "steps": ["c"]}', "both `cot` and `steps`"),
    "number": ('{"question": "q", "answer": 1, "cot": "c"}', "`answer` is a number"),
    "steps text": ('{"question": "q", "answer": "1", "steps": "c"}', "`steps` is a string"),
    "step number": ('{"question": "q", "answer": "1", "steps": ["a", 2]}', "step 2 of `steps` is a number"),
    "empty step": ('{"question": "q", "answer": "1", "steps": ["a", " "]}', "step 2 of `steps` is empty"),
    "empty answer": ('{"question": "q", "answer": " ", "steps": []}', "empty answer"),
    "second marker": ('{"question": "q", "answer": "a #### 1 #### 2"}', "second `####`"),
    "no marker": ('{"question": "q", "answer": "<<1+1=2>> 2"}', "no `####`"),
    "open equation": ('{"question": "q", "answer": "<<1+1=2\\n #### 2"}', "`<<` without `>>`"),
    "half surrogate": ('{"question": "\\ud800", "answer": "1", "steps": []}', "surrogate"),
    "deep": ('{"question": ' + "[" * 100_000, "not usable JSON"),
    "bad UTF-8": (b'{"question": "\xe9"}', "not UTF-8"),
    "blank": ("", "blank line"),
}
BROKEN = [("txt", row, what) for row, what in BROKEN_TEXT.values()] + [
    ("jsonl", row, what) for row, what in BROKEN_JSON.values()
]
GOOD = {"txt": "q||c #### 1", "jsonl": '{"question": "q", "cot": "c", "answer": "1"}'}


@pytest.mark.parametrize(
    ("suffix", "row", "what"), BROKEN, ids=[f"text {n}" for n in BROKEN_TEXT] + [f"json {n}" for n in BROKEN_JSON]
)
def test_broken_row_stops_or_is_noted(tmp_path: Path, suffix: str, row: str | bytes, what: str) -> None:
    raw = row.encode() if isinstance(row, str) else row
    good = GOOD[suffix].encode()
    path = write(tmp_path / f"rows.{suffix}", b"\n".join([good, raw, good, b""]))
    with pytest.raises(UserError) as caught:
        list(read_records(path))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert what in str(caught.value)
    assert "; " in str(caught.value), "a remedy is missing"

    bad_rows: list[BadRow] = []
    records = list(read_records(path, on_bad_row="skip", bad_rows=bad_rows))
    assert records == [CoTRecord("q", ("c",), "1")] * 2
    assert [(bad.source, bad.line) for bad in bad_rows] == [(path, 2)]
    assert what in bad_rows[0].reason


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "a.jsonl",
            '{"prompt": "q", "cot": "c", "answer": "1"}',
            "no `question`; add it as a string, or tell with col",
        ),
        (
            "a.jsonl",
            '{"question": "q", "answer": "1"}',
            "add `cot`, empty for a row without a chain of thought, or tell",
        ),
        (
            "a.csv",
            "question,answer\nq,1",
            "add `cot`, empty for a row without a chain of thought, or tell with columns.*",
        ),
    ],
)
def test_fields_of_other_names_are_told_how_to_name(tmp_path: Path, name: str, content: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        list(read_records(write(tmp_path / name, content)))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", '{"question": "q", "cot": "", "answer": "1"}'), ("a.csv", "question,cot,answer\nq,,1")],
)
def test_the_remedy_for_a_row_without_a_chain_of_thought_works(tmp_path: Path, name: str, content: str) -> None:
    assert list(read_records(write(tmp_path / name, content))) == [CoTRecord("q", (), "1")]


def test_every_line_is_a_record_or_a_bad_row(tmp_path: Path) -> None:
    lines = ["q||c #### 1", "", "", "broken", "q||c #### 2", "", ""]
    bad_rows: list[BadRow] = []
    records = list(read_records(write(tmp_path / "a.txt", "\n".join(lines)), on_bad_row="skip", bad_rows=bad_rows))
    assert len(records) == 2
    assert [bad.line for bad in bad_rows] == [2, 3, 4]


def test_skip_without_a_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bad_rows"):
        read_records(write(tmp_path / "a.txt", "q||c #### 1\n"), on_bad_row="skip")


@pytest.mark.parametrize("name", ["missing.txt", "missing", "folder/missing.jsonl"])
def test_missing_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_records(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "\ud800"], ids=["too long", "null character", "half surrogate"])
@pytest.mark.parametrize("source_format", ["auto", "text"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str, source_format: str) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_records(str(tmp_path / f"{name}.txt"), source_format=source_format)  # type: ignore[arg-type]


@pytest.mark.parametrize("source_format", ["text", "json"])
def test_a_file_that_breaks_off_is_refused(source_format: str) -> None:
    nowhere = "/proc/self/mem"  # opens, and cannot be read at its beginning
    if not Path(nowhere).exists():
        pytest.skip("needs Linux")
    with pytest.raises(UserError, match=f"{nowhere}: cannot be read to its end"):
        list(read_records(nowhere, source_format=source_format))  # type: ignore[arg-type]


def test_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a directory"):
        read_records(str(tmp_path))


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
@pytest.mark.parametrize("suffix", ["txt", "jsonl", "json"])
def test_file_without_rows_is_refused(tmp_path: Path, content: str, suffix: str) -> None:
    with pytest.raises(UserError, match="holds no rows"):
        list(read_records(write(tmp_path / f"a.{suffix}", content)))


def test_empty_json_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no rows"):
        list(read_records(write(tmp_path / "a.json", " [ ] ")))


def test_file_of_broken_rows_only_is_refused_even_when_skipping(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "x\ny\n")
    with pytest.raises(UserError, match=r"every row is broken, the first being .*a\.txt:1: no `\|\|`"):
        list(read_records(path, on_bad_row="skip", bad_rows=[]))


@pytest.mark.parametrize(
    ("tail", "line", "what"),
    [
        (b",\n{'x': 1}\n]", 3, "property name"),
        (b"\n{}]", 3, "`]` expected"),
        (b",\n]", 3, "Expecting value"),
        (b"", 2, "`]` expected"),
        (b"]\nmore", 3, "text after"),
        (b',\n{"question": "\xff"}]', 3, "not UTF-8"),
    ],
)
def test_broken_json_array_names_the_line_even_when_skipping(tmp_path: Path, tail: bytes, line: int, what: str) -> None:
    path = write(tmp_path / "a.json", b"[\n" + GOOD["jsonl"].encode() + tail)
    with pytest.raises(UserError, match=what) as caught:
        list(read_records(path, on_bad_row="skip", bad_rows=[]))
    assert str(caught.value).startswith(f"{path}:{line}: ")


@pytest.mark.parametrize("chunk", range(1, 8))
def test_a_number_in_a_json_array_is_not_cut_by_a_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(streams, "CHUNK_BYTES", chunk)
    path = write(tmp_path / "a.json", f"[123, -1.25e+10, 1E5, {GOOD['jsonl']}, 0.5, true]")
    bad_rows: list[BadRow] = []
    assert list(read_records(path, on_bad_row="skip", bad_rows=bad_rows)) == [CoTRecord("q", ("c",), "1")]
    assert len(bad_rows) == 5


def test_broken_element_of_a_json_array_names_the_line_it_begins_on(tmp_path: Path) -> None:
    bad_rows: list[BadRow] = []
    path = write(tmp_path / "a.json", f'[\n{GOOD["jsonl"]},\n{{\n"answer": "1"}},\n3]')
    assert len(list(read_records(path, on_bad_row="skip", bad_rows=bad_rows))) == 1
    assert [(bad.line, bad.reason[:13]) for bad in bad_rows] == [(3, "no `question`"), (5, "holds a numbe")]
