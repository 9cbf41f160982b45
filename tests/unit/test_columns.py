"""Columns of any name, in CSV, Parquet and JSON: what is read, and what is told of broken tables."""

import csv
import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import ColumnsConfig, DataConfig, FormatConfig, config_to_yaml, load_config
from pipeline.config.parsing import parse_command_line
from pipeline.errors import UserError
from pipeline.examples import load_examples
from pipeline.records import BadRow, CoTRecord, read_records, tables
from pipeline.records.columns import read_columns
from pipeline.records.rows import OWN_NAMES
from pipeline.word_tokenizer import build_word_tokenizer
from tests.tiny import write_recipe

NAMES = {"question": "prompt", "cot": "reasoning", "steps": "trace", "answer": "output", "messages": "chat"}
ROWS = [
    {"id": "7", "prompt": 'Ann said "2 + 2"?', "reasoning": "two, twice:\n\n 2 + 2 = 4\nso 4", "output": "4"},
    {"id": "8", "prompt": "none, here", "reasoning": "", "output": "1,000"},
]
RECORDS = [
    CoTRecord('Ann said "2 + 2"?', ("two, twice:\n\n", " 2 + 2 = 4\n", "so 4"), "4"),
    CoTRecord("none, here", (), "1,000"),
]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def write_csv(path: Path, rows: list[dict[str, str]], **options: Any) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> str:
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def read(path: str, **options: Any) -> list[CoTRecord]:
    return list(read_records(path, columns=NAMES, **options))


# Right tables


@pytest.mark.parametrize("options", [{}, {"lineterminator": "\n"}, {"quoting": csv.QUOTE_ALL}], ids=str)
def test_csv_is_read(tmp_path: Path, options: dict[str, Any]) -> None:
    path = Path(write_csv(tmp_path / "rows.csv", ROWS, **options))
    assert read(str(path)) == RECORDS
    assert read(write(tmp_path / "rows.data", path.read_bytes()), source_format="csv") == RECORDS
    assert read(write(tmp_path / "marked.csv", b"\xef\xbb\xbf\n" + path.read_bytes() + b"\n \n")) == RECORDS


def test_parquet_is_read(tmp_path: Path) -> None:
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    assert read(write_parquet(tmp_path / "rows.parquet", columns, row_group_size=1)) == RECORDS
    coded = {**columns, "output": pa.array(columns["output"]).dictionary_encode(), "when": [date(1, 1, 1), None]}
    assert read(write_parquet(tmp_path / "coded.parquet", coded)) == RECORDS
    steps = {"prompt": ["q"] * 2, "trace": [["a", " b "], []], "reasoning": pa.nulls(2), "output": ["1"] * 2}
    found = read(write_parquet(tmp_path / "steps.data", steps), source_format="parquet")
    assert found == [CoTRecord("q", ("a", "b"), "1"), CoTRecord("q", (), "1")]


def test_a_large_table_is_read_in_order_and_in_parts(tmp_path: Path) -> None:
    numbers = range(2 * tables.ROWS_AT_ONCE + 5)
    rows = [{"prompt": f"q{i}", "reasoning": "c", "output": str(i)} for i in numbers]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    parquet, table = str(tmp_path / "rows.parquet"), write_csv(tmp_path / "rows.csv", rows)
    for path in (parquet, table):
        assert [record.answer for record in read(path)] == list(map(str, numbers))
        batches = list(read_columns(path, columns=NAMES, bad_rows=[]))
        assert [record for batch in batches for record in batch.records()] == read(path)
        records = read_records(path, columns=NAMES)
        assert next(records).question == "q0"


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_json_has_other_names_too(tmp_path: Path, name: str) -> None:
    rows: list[dict[str, Any]] = [
        *ROWS,
        {"prompt": "q", "trace": ["a", "b"], "output": "1", "question": 5},
        {"prompt": "p", "output": "#### 2"},
    ]
    content = json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows))
    expected = [*RECORDS, CoTRecord("q", ("a", "b"), "1"), CoTRecord("p", (), "2")]
    assert read(write(tmp_path / name, content)) == expected


def test_messages_have_another_name_too(tmp_path: Path) -> None:
    row = {"chat": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>c</think>1"}]}
    assert read(write(tmp_path / "a.jsonl", json.dumps(row))) == [CoTRecord("q", ("c",), "1")]
    with pytest.raises(UserError, match="both `chat` and `prompt`; keep one of them, or tell with columns"):
        read(write(tmp_path / "b.jsonl", json.dumps({**row, "prompt": "q"})))


# Broken rows

HEAD = "prompt,reasoning,output\n"
BROKEN = {
    "few cells": ("q,c", "2 cells in a table of 3 columns"),
    "many cells": ("q,c,1,000", "4 cells in a table of 3 columns"),
    "empty question": (" ,c,1", "empty question"),
    "empty answer": ("q,c,", "empty answer"),
    "blank": ("", "blank line"),
    "blanks": ("  ", "blank line"),
    "bad UTF-8": (b"\xe9t\xe9,c,1", "not UTF-8"),
    "inside quotes": (b'"\xe9t\n\xe9",c,1', "not UTF-8"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_row_of_csv_is_told_with_its_line_or_noted(tmp_path: Path, name: str) -> None:
    row, what = BROKEN[name]
    raw = row.encode() if isinstance(row, str) else row
    path = write(tmp_path / "rows.csv", HEAD.encode() + b'"a\nb",c,1\n' + raw + b"\nq,c,1\n")
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:4: ") and what in str(caught.value) and "; " in str(caught.value)
    bad_rows: list[BadRow] = []
    assert [record.question for record in read(path, on_bad_row="skip", bad_rows=bad_rows)] == ["a\nb", "q"]
    assert [(bad.line, what in bad.reason) for bad in bad_rows] == [(4, True)]


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        ('q,c,1\n"q,c,1\nq,c,1\n', 3, "unexpected end of data"),
        ('q,c,1\n"q"x,c,1\n', 3, "',' expected"),
        ("q,c\rd,1\n", 2, "new-line character"),
        ("q,c,1\n" + "x" * (1 << 24) + "x,c,1\n", 3, "field larger than"),
    ],
    ids=["open", "text behind a quote", "carriage return", "huge"],
)
def test_wrong_quotes_are_refused_even_when_skipping(tmp_path: Path, content: str, line: int, what: str) -> None:
    path = write(tmp_path / "rows.csv", HEAD + content)
    with pytest.raises(UserError, match=what) as caught:
        read(path, on_bad_row="skip", bad_rows=[])
    assert str(caught.value).startswith(f"{path}:{line}: not valid CSV")


@pytest.mark.parametrize(
    ("head", "what"),
    [
        ("question,reasoning,output", "no column `prompt` (its columns: 'question', 'reasoning', 'output'); "),
        ("prompt;reasoning;output", "no column `prompt` (its columns: 'prompt;reasoning;output'); "),
        ("prompt,reasoning, output", "no column `output` (its columns: 'prompt', 'reasoning', ' output'); "),
        ("prompt,output,reasoning,output", "two columns are called `output`"),
        ("a\x00b,\xe9" + ",c" * 999, "no column `prompt` (its columns: 'a\\x00b', "),
    ],
)
def test_a_table_without_the_columns_is_refused(tmp_path: Path, head: str, what: str) -> None:
    path = write(tmp_path / "rows.csv", f"\n{head}\nq,c,1\n")
    with pytest.raises(UserError) as caught:
        read(path, on_bad_row="skip", bad_rows=[])
    assert str(caught.value).startswith(f"{path}:2: ") and what in str(caught.value)
    assert len(str(caught.value)) < len(path) + 400 and "\n" not in str(caught.value)


def test_a_parquet_file_without_the_columns_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "rows.parquet", {"prompt": ["q"], "answer": ["1"]})
    with pytest.raises(UserError, match=r"rows\.parquet: no column `output` \(its columns: 'prompt', 'answer'\)"):
        read(path)


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff", HEAD, HEAD + "\n\n"])
def test_csv_without_rows_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match="holds no rows"):
        read(write(tmp_path / "a.csv", content))


def test_parquet_without_rows_is_refused(tmp_path: Path) -> None:
    empty = pa.array([], pa.string())
    with pytest.raises(UserError, match="holds no rows"):
        read(write_parquet(tmp_path / "a.parquet", {"prompt": empty, "reasoning": empty, "output": empty}))


def test_broken_rows_of_parquet_are_told_by_number(tmp_path: Path) -> None:
    texts = pa.array([b"a", b"b", b"\xff", b"d"]).cast(pa.binary()).view(pa.string())
    columns = {"prompt": texts, "reasoning": ["c", None, "c", "c"], "output": ["1", "2", "3", "4"]}
    path = write_parquet(tmp_path / "rows.parquet", columns, row_group_size=3)
    bad_rows: list[BadRow] = []
    assert [row.question for row in read(path, on_bad_row="skip", bad_rows=bad_rows)] == ["a", "d"]
    assert [(bad.line, bad.reason[:14]) for bad in bad_rows] == [(2, "neither `reaso"), (3, "not UTF-8; wri")]
    numbers = write_parquet(tmp_path / "numbers.parquet", {"prompt": ["q"], "reasoning": ["c"], "output": [4]})
    with pytest.raises(UserError, match=r"numbers\.parquet:1: `output` is a number; write it as a string"):
        read(numbers)
    times = {"prompt": pa.array([2**62], pa.timestamp("us")), "reasoning": ["c"], "output": ["4"]}
    with pytest.raises(UserError, match=r"times\.parquet:1: not readable \(.*\); write texts"):
        read(write_parquet(tmp_path / "times.parquet", times))
    days = {"prompt": [date(2026, 1, 1)], "reasoning": ["c"], "output": ["4"]}
    with pytest.raises(UserError, match=r"days\.parquet:1: `prompt` is a date; write it as a string"):
        read(write_parquet(tmp_path / "days.parquet", days))


@pytest.mark.parametrize("keep", [0, 4, 40, -9, -30])
def test_a_damaged_parquet_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "rows.parquet"
    write_parquet(path, {"prompt": ["q"] * 50, "reasoning": ["c"] * 50, "output": ["1"] * 50})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"rows\.parquet: not a whole Parquet file \(.*\); write it again"):
        read(str(path), on_bad_row="skip", bad_rows=[])


def test_a_parquet_file_that_is_damaged_inside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    texts = [f"question {i}" for i in range(3000)]
    write_parquet(path, {"prompt": texts, "reasoning": texts, "output": texts}, compression="gzip")
    content = bytearray(path.read_bytes())
    content[200:2000] = b"\xff" * 1800
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"rows\.parquet: not a whole Parquet file"):
        read(str(path), on_bad_row="skip", bad_rows=[])


@pytest.mark.parametrize(
    "row", ['{"prompt": "q", "output": "1"}', "[1]", '{"prompt": "q", "trace": "c", "output": "1"}']
)
def test_what_is_told_of_json_has_the_users_names(tmp_path: Path, row: str) -> None:
    with pytest.raises(UserError) as caught:
        read(write(tmp_path / "a.jsonl", row))
    assert "`trace`" in str(caught.value) and "`reasoning`" in str(caught.value)
    assert not any(f"`{name}`" in str(caught.value) for name in OWN_NAMES)


# In a recipe


def test_a_recipe_names_columns(tmp_path: Path) -> None:
    config = load_config(write_recipe(tmp_path, data__columns={"question": "prompt", "cot": "reasoning"}))
    assert config.data.columns == ColumnsConfig(question="prompt", cot="reasoning")
    (tmp_path / "again.yaml").write_text(config_to_yaml(config))
    assert load_config(tmp_path / "again.yaml") == config
    again, _ = parse_command_line([f"--config={tmp_path / 'again.yaml'}", "--data.columns.cot", "why"], "tacit train")
    assert again.data.columns == ColumnsConfig(question="prompt", cot="why")


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"answer": "cot"}, "data.columns.answer ('cot') is data.columns.cot as well; "),
        ({"question": "x", "answer": "x"}, "data.columns.answer ('x') is data.columns.question as well; "),
        ({"cot": ""}, "data.columns.cot is empty; "),
        ({"questoin": "x"}, "data.columns.questoin: unknown setting. Did you mean data.columns.question?"),
    ],
)
def test_names_that_cannot_be_are_refused(tmp_path: Path, columns: dict[str, str], what: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(write_recipe(tmp_path, data__columns=columns))
    assert what in str(caught.value)


def test_other_columns_miss_the_cache(tmp_path: Path) -> None:
    rows = {"question": "1", "q": "2", "cot": "3", "answer": "4"}
    path = write_csv(tmp_path / "rows.csv", [rows])
    found = []
    for names in (ColumnsConfig(), ColumnsConfig(question="q")):
        config = DataConfig(cache_dir=str(tmp_path / "cache"), columns=names)
        found += load_examples(path, "train", config, FormatConfig(), build_word_tokenizer()).texts("question", [0])
    assert found == ["1", "2"]
