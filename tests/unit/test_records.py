"""Records: splitting into steps, and reading every format."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.records import CoTRecord, read_records, split_steps, to_text_line, write_records

SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"

TEXT = "2 apples, 3 more?||<<2+3=5>> <<5*2=10>> #### 10\n1 1 * 2 2||x + y #### 2 4 2\nno reasoning|| #### 7\n"
RECORDS = [
    CoTRecord("2 apples, 3 more?", ("<<2+3=5>>", "<<5*2=10>>"), "10"),
    CoTRecord("1 1 * 2 2", ("x + y",), "2 4 2"),
    CoTRecord("no reasoning", (), "7"),
]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


# Splitting into steps


@pytest.mark.parametrize(
    ("cot", "steps"),
    [
        ("", ()),
        ("<<1+1=2>>", ("<<1+1=2>>",)),
        ("<<1+1=2>> <<2*3=6>> <<6-1=5>>", ("<<1+1=2>>", "<<2*3=6>>", "<<6-1=5>>")),
        ("<<1+1=2>>  <<2*3=6>>", ("<<1+1=2>>  <<2*3=6>>",)),
        ("5 1 0 4 2 + 0 5 2 0 0 4", ("5 1 0 4 2 + 0 5 2 0 0 4",)),
        ("one\ntwo", ("one\n", "two")),
        ("one\n\n \n  two \nthree\u2028four", ("one\n\n \n", "  two \n", "three\u2028four")),
        ("<<1+1=2>> <<2*3=6>>\n<<6-1=5>>", ("<<1+1=2>> <<2*3=6>>\n", "<<6-1=5>>")),
    ],
)
def test_lines_and_equations_are_split_and_other_texts_are_one_step(cot: str, steps: tuple[str, ...]) -> None:
    assert split_steps(cot) == steps


@given(st.text(alphabet="<> 1a\n"))
def test_splitting_is_reversible(cot: str) -> None:
    assert CoTRecord("q", split_steps(cot), "1").cot == cot


def test_steps_are_joined_by_one_blank_or_their_line_break() -> None:
    assert CoTRecord("q", ("a", "b c"), "1").cot == "a b c"
    assert CoTRecord("q", ("a\nb", "c"), "1").cot == "a\nb c"
    assert CoTRecord("q", ("a\n", "b", "c"), "1").cot == "a\nb c"


# Reading good files


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.removesuffix("\n").encode(),
        TEXT.encode() + b"\n\n",
        b"\xef\xbb\xbf" + TEXT.encode(),
        TEXT.replace("\n", "\r\n").encode(),
    ],
    ids=["plain", "no last line end", "blank lines at the end", "byte order mark", "CRLF"],
)
def test_text_is_read(tmp_path: Path, content: bytes) -> None:
    assert list(read_records(write(tmp_path / "rows.txt", content))) == RECORDS


def test_a_line_ends_at_lf_only(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.txt", "a\u2028b\x0cc||d\x85e #### 1\n")
    assert list(read_records(path)) == [CoTRecord("a\u2028b\x0cc", ("d\x85e",), "1")]


def test_objects_are_read_with_cot_steps_or_in_gsm8k_form(tmp_path: Path) -> None:
    rows = [
        {"question": "q1", "cot": "<<1+1=2>> <<2+2=4>>", "answer": "4", "extra": [1]},
        {"question": " q2 ", "steps": ["first", " second "], "answer": " 5 ", "cot": None},
        {"question": "q3", "steps": [], "answer": "6"},
        {"question": "q4", "answer": "Add: 1+1=<<1+1=2>>2.\nTwice: <<2*2000=4000>>4,000\n#### 4,000"},
        {"question": "q5", "answer": "Nothing to compute.\n#### 7"},
        {"question": "q6", "cot": "", "answer": "8"},
    ]
    expected = [
        CoTRecord("q1", ("<<1+1=2>>", "<<2+2=4>>"), "4"),
        CoTRecord("q2", ("first", "second"), "5"),
        CoTRecord("q3", (), "6"),
        CoTRecord("q4", ("<<1+1=2>>", "<<2*2000=4000>>"), "4,000"),
        CoTRecord("q5", (), "7"),
        CoTRecord("q6", (), "8"),
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    assert list(read_records(write(tmp_path / "rows.jsonl", lines))) == expected
    assert list(read_records(write(tmp_path / "lines.json", lines))) == expected
    assert list(read_records(write(tmp_path / "unknown.data", lines))) == expected
    for name, indent in (("one_line.json", None), ("indented.json", 2)):
        assert list(read_records(write(tmp_path / name, json.dumps(rows, indent=indent)))) == expected
    assert (
        list(read_records(write(tmp_path / "byte_order_mark.json", b"\xef\xbb\xbf" + json.dumps(rows).encode())))
        == expected
    )


def test_format_can_be_given(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", TEXT)
    assert list(read_records(path, source_format="text")) == RECORDS
    with pytest.raises(UserError, match="not valid JSON"):
        list(read_records(path))


def test_text_question_may_begin_with_a_bracket(tmp_path: Path) -> None:
    assert [r.question for r in read_records(write(tmp_path / "a.txt", "[1] {x}||c #### 1\n"))] == ["[1] {x}"]


def test_json_array_larger_than_a_chunk_is_read_in_order(tmp_path: Path) -> None:
    rows = [
        {"question": f"question {i} é" + "x" * (i % 500), "steps": ["{[,]}", str(i)], "answer": str(i)}
        for i in range(900)
    ]
    path = write(tmp_path / "big.json", json.dumps(rows, ensure_ascii=False))
    assert Path(path).stat().st_size > 3 * 65536
    assert [record.answer for record in read_records(path)] == [str(i) for i in range(900)]


def test_reading_is_lazy(tmp_path: Path) -> None:
    records = read_records(write(tmp_path / "rows.txt", "q||c #### 1\nbroken\n"))
    assert next(records).question == "q"
    with pytest.raises(UserError):
        next(records)


# The Hub


def test_hub_name_and_config_reach_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load_dataset(name: str, config: str | None, **options: object) -> list[dict[str, object]]:
        calls.append((name, config, options))
        return [
            {"question": "q", "answer": "<<1+1=2>>2\n#### 2", "cot": None},
            {"question": "q", "answer": 3, "cot": "c"},
        ]

    monkeypatch.setitem(__import__("sys").modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    records = read_records("openai/gsm8k:main", split="test")
    assert next(records) == CoTRecord("q", ("<<1+1=2>>",), "2")
    with pytest.raises(UserError, match=r"^openai/gsm8k:main\[test\]:2: `answer` is a number"):
        next(records)
    assert calls == [("openai/gsm8k", "main", {"split": "test", "streaming": True})]


def test_hub_failure_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("no\nnetwork")

    monkeypatch.setitem(__import__("sys").modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(UserError, match=r"nobody/nothing: neither a file .* \(no network\)"):
        list(read_records("nobody/nothing"))


def test_hub_library_reads_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write(tmp_path / "train.jsonl", '{"question": "q", "steps": ["a", "b"], "answer": "1"}\n')
    assert list(read_records(str(tmp_path), source_format="hub")) == [CoTRecord("q", ("a", "b"), "1")]


# The published files

needs_shared_data = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="../shared/data is absent")


@needs_shared_data
@pytest.mark.parametrize(("name", "num_rows"), [("train", 7473), ("test", 1319)])
def test_every_row_of_gsm8k_converts(name: str, num_rows: int, tmp_path: Path) -> None:
    records = list(read_records(str(SHARED_DATA / "gsm8k" / f"{name}.jsonl")))
    assert len(records) == num_rows
    write_records(tmp_path / "rows.txt", records)
    assert list(read_records(str(tmp_path / "rows.txt"))) == records


@needs_shared_data
def test_gsm8k_converts_to_the_published_equations() -> None:
    ours = {to_text_line(record) for record in read_records(str(SHARED_DATA / "gsm8k" / "train.jsonl"))}
    published = (SHARED_DATA / "gsm8k_equations" / "valid.txt").read_text(encoding="utf-8").splitlines()
    assert len(published) == 500
    assert ours.issuperset(published)
