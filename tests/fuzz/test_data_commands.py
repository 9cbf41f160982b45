"""`tacit data convert`, `tacit data split` and `tacit score` on any file: what they say is what they did."""

import json
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import read_records
from tests.fuzz.cases import damaged, fuzz
from tests.fuzz.rows import BROKEN_OBJECTS, FILES, FORMATS, NAMES, TEXTS, dumped, lines, num_filled
from tests.fuzz.test_command_line import run

PREDICTIONS = damaged(
    lines(st.fixed_dictionaries({"prediction": TEXTS, "answer": TEXTS}).flatmap(dumped) | BROKEN_OBJECTS)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


def refused(err: str) -> bool:
    lines = err.splitlines()
    return bool(lines) and all(line.startswith("tacit: error: ") for line in lines)


@fuzz
@given(FILES, NAMES, FORMATS, st.sampled_from(["stop", "skip"]), st.sampled_from([".txt", ".jsonl"]))
def test_convert(
    folder: Path,
    content: bytes,
    name: str,
    source_format: str,
    on_bad_row: str,
    suffix: str,
) -> None:
    source, output = emptied(folder) / name, folder / f"out{suffix}"
    source.write_bytes(content)
    options = ["--source_format", source_format, "--on_bad_row", on_bad_row]
    code, out, err = run(["data", "convert", "--input", str(source), "--output", str(output), *options])
    if code == 2:
        assert refused(err)
        assert list(folder.iterdir()) == [source]
        return
    assert code == 0
    num_rows = int(re.match(r"Wrote ([\d,]+) rows to ", out)[1].replace(",", ""))  # type: ignore[index]
    skipped = re.search(r"; skipped ([\d,]+) broken rows\.\n", out)
    assert len(out.splitlines()) == 1 + (int(skipped[1]) if skipped else 0)
    again = list(read_records(str(output)))
    before = list(read_records(str(source), source_format=source_format, on_bad_row=on_bad_row, bad_rows=[]))  # type: ignore[arg-type]
    fields = [[(row.question, row.cot, row.answer) for row in rows] for rows in (before, again)]
    assert fields[0] == fields[1] and len(again) == num_rows
    assert sorted(folder.iterdir()) == sorted([source, output])


@fuzz
@given(FILES, st.sampled_from(["rows.txt", "rows.json", "train.jsonl"]), st.integers(0, 3), st.integers(0, 2))
def test_split(folder: Path, content: bytes, name: str, num_validation: int, num_test: int) -> None:
    source, out_dir = emptied(folder) / name, folder if num_test else folder / "out"
    source.write_bytes(content)
    counts = ["--num_validation", str(num_validation), "--num_test", str(num_test)]
    options = ["--on_bad_row", "skip", "--file_format", "jsonl", "--overwrite"]
    code, _, err = run(["data", "split", "--input", str(source), "--output_dir", str(out_dir), *counts, *options])
    assert source.read_bytes() == content
    if code == 2:
        assert refused(err)
        assert list(folder.iterdir()) == [source]
        return
    assert code == 0
    rows = list(read_records(str(source), on_bad_row="skip", bad_rows=[]))
    splits = {path.stem: list(read_records(str(path))) for path in out_dir.glob("*.jsonl")}
    assert sorted(map(repr, rows)) == sorted(repr(row) for split in splits.values() for row in split)
    questions = {split: {row.question for row in found} for split, found in splits.items()}
    assert {split: len(found) for split, found in questions.items() if split != "train"} == {
        split: count for split, count in (("validation", num_validation), ("test", num_test)) if count
    }
    assert sum(map(len, questions.values())) == len({row.question for row in rows})


@fuzz
@given(PREDICTIONS)
def test_score(folder: Path, content: bytes) -> None:
    path = folder / "predictions.jsonl"
    path.write_bytes(content)
    code, out, err = run(["score", str(path), "--json"])
    if code == 2:
        assert re.match(rf"tacit: error: {re.escape(str(path))}(:\d+: |: holds no rows)", err)
        return
    assert code == 0
    report = json.loads(out)
    rows = [json.loads(line) for line in content.decode("utf-8-sig").split("\n") if line.strip()]
    assert report["num_examples"] == num_filled(content) == len(rows)
    endings = [
        [str(row[key]).split("####")[-1].replace(",", "").strip() for row in rows] for key in ("prediction", "answer")
    ]
    assert report["num_correct"] == sum(a == b for a, b in zip(*endings, strict=True))
