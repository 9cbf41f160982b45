"""`tacit data` and `tacit score` through the shell."""

import json
import subprocess
from pathlib import Path

import pytest

from pipeline.cli.data import COMMANDS
from pipeline.records import read_records
from tests import forked
from tests.tiny import ROOT

SHARED_DATA = ROOT.parent / "shared" / "data"
GSM8K_ROW = {"question": "How many?", "answer": "It is 1+1=<<1+1=2>>2.\nThen 2*3=<<2*3=6>>6.\n#### 6"}


def tacit(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    finished = forked.tacit(*arguments)
    assert finished.returncode == code, finished.stderr
    assert "Traceback" not in finished.stderr
    return finished


def test_help_lists_every_command_and_option() -> None:
    overview = tacit("data", "--help").stdout
    assert all(f"  {name} " in overview for name in COMMANDS)
    options = tacit("data", "multiplication", "--help").stdout
    assert all(
        f"--{name}" in options
        for name in ("digits", "num_train", "num_validation", "num_test", "seed", "exclude", "output_dir", "overwrite")
    )
    assert "4x4" in options


def test_multiplication_is_split_without_overlap_and_without_excluded_rows(tmp_path: Path) -> None:
    exclude = [tmp_path / "a.txt", tmp_path / "b.txt"]
    exclude[0].write_text("1  * 1||1 0 #### 1 0\n")  # another blank makes no other question
    exclude[1].write_text("9 * 9||1 8 #### 1 8\n")
    command = ["data", "multiplication", "--digits", "1x1", "--num_train", 60, "--num_validation", 9, "--num_test", 10]
    finished = tacit(*command, "--output_dir", tmp_path / "out", "--exclude", *exclude)
    assert "Wrote 60 rows to" in finished.stdout
    assert finished.stderr == ""
    questions = {
        name: [record.question for record in read_records(str(tmp_path / "out" / f"{name}.txt"))]
        for name in ("train", "validation", "test")
    }
    assert {name: len(rows) for name, rows in questions.items()} == {"train": 60, "validation": 9, "test": 10}
    every = {question for rows in questions.values() for question in rows}
    assert every == {f"{a} * {b}" for a in range(1, 10) for b in range(1, 10)} - {"1 * 1", "9 * 9"}

    again = tacit(*command, "--output_dir", tmp_path / "out", code=2)
    assert "train.txt: exists already; name another file, or add --overwrite." in again.stderr
    tacit(*command, "--output_dir", tmp_path / "out", "--overwrite")
    too_many = tacit(*command, "--seed", 1, "--output_dir", tmp_path / "two", "--num_train", 63, code=2)
    assert "(82) must not be above the number of different questions (81)" in too_many.stderr


def test_a_share_of_the_products_has_zeros(tmp_path: Path) -> None:
    command = ["data", "multiplication", "--digits", "3x3", "--num_train", 100, "--output_dir", tmp_path]
    tacit(*command, "--zero_share", 0.4)
    has_zeros = ["0" in record.question for record in read_records(str(tmp_path / "train.txt"))]
    assert len(has_zeros) == 100 and all(has_zeros[60:]) and not all(has_zeros[:60])


def test_sums_of_a_product_can_stand_elsewhere(tmp_path: Path) -> None:
    command = ["data", "multiplication", "--digits", "3x3", "--num_train", 20]
    rows = {}
    for sums in ("between", "last", "none"):
        tacit(*command, "--sums", sums, "--output_dir", tmp_path / sums)
        rows[sums] = list(read_records(str(tmp_path / sums / "train.txt")))
    assert [row.cot.count("(") for row in rows["between"] + rows["last"] + rows["none"]] == [1] * 40 + [0] * 20
    assert all(last.cot.startswith(none.cot) for last, none in zip(rows["last"], rows["none"], strict=True))
    assert all(last.cot.endswith(")") for last in rows["last"])
    assert [row.question for row in rows["between"]] == [row.question for row in rows["none"]]


@pytest.mark.parametrize(
    ("arguments", "first_row"),
    [
        (("addition", "--digits", "1-2", "--num_operands", 3), None),
        (("parity", "--length", 12), None),
        (("automaton", "--machine", "modular_sum", "--modulus", 7, "--length", 6), None),
        (("automaton", "--machine", "s3", "--length", "4-6"), None),
        (("automaton", "--machine", "table", "--transitions", "[[0]]", "--length", 3), "0 0 0||0 0 0 #### 0\n"),
    ],
)
def test_other_tasks_are_generated(tmp_path: Path, arguments: tuple[object, ...], first_row: str | None) -> None:
    num_train = 1 if first_row else 40
    tacit(
        "data", *arguments, "--output_dir", tmp_path, "--num_train", num_train, "--num_validation", 0, "--num_test", 0
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["train.txt"]
    assert len(list(read_records(str(tmp_path / "train.txt")))) == num_train
    if first_row:
        assert (tmp_path / "train.txt").read_text() == first_row


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("multiplicaton",), "Did you mean multiplication?"),
        (("multiplication", "--digit", "4x4"), "Did you mean --digits?"),
        (("multiplication", "--digits", "4x4"), "output_dir"),
        (("multiplication", "--digits", "4x4", "--zero_share", "1.1", "--output_dir", "unused"), "--zero_share (1.1)"),
        (("multiplication", "--digits", "four", "--output_dir", "unused"), "--digits ('four')"),
        (("parity", "--length", "4", "--num_train", "many", "--output_dir", "unused"), "num_train"),
        (("automaton", "--machine", "table", "--length", "4", "--output_dir", "unused"), "needs --transitions"),
        (("automaton", "--machine", "s3", "--modulus", "4", "--length", "4", "--output_dir", "unused"), "belongs to"),
        (("multiplication", "--digits", "4x44444444", "--output_dir", "unused"), "up to 999x999"),
        (("parity", "--length", "1-99999999", "--output_dir", "unused"), "up to 999"),
        (
            (
                "automaton",
                "--machine",
                "modular_sum",
                "--modulus",
                "99999999",
                "--length",
                "4",
                "--output_dir",
                "unused",
            ),
            "999",
        ),
        (("convert", "--input", "missing.txt", "--output", "unused.txt"), "missing.txt: no such file"),
        (("convert", "--input", "missing.txt", "--output", "unused.csv"), "unknown extension"),
    ],
)
def test_mistakes_exit_2_with_a_hint(arguments: tuple[str, ...], what: str) -> None:
    assert what in tacit("data", *arguments, code=2).stderr


def test_gsm8k_is_converted_and_broken_rows_are_listed(tmp_path: Path) -> None:
    source, output = tmp_path / "test.jsonl", tmp_path / "test.txt"
    rows = [
        GSM8K_ROW,
        {"question": "Broken?", "answer": "no final"},
        {"question": "None?", "answer": "So:\n#### 1,000"},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stopped = tacit("data", "gsm8k", "--input", source, "--output", output, code=2)
    assert f"{source}:2: no `####`" in stopped.stderr
    assert not output.exists()
    finished = tacit("data", "gsm8k", "--input", source, "--output", output, "--on_bad_row", "skip")
    assert output.read_text() == "How many?||<<1+1=2>> <<2*3=6>> #### 6\nNone?|| #### 1,000\n"
    first, *skipped = finished.stdout.splitlines()
    assert first == f"Wrote 2 rows to {output} (1 of them without a chain of thought); skipped 1 broken rows."
    assert len(skipped) == 1
    assert f"{source}:2: no `####`" in skipped[0]


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="../shared/data is absent")
def test_published_gsm8k_is_converted_whole(tmp_path: Path) -> None:
    source = SHARED_DATA / "gsm8k" / "test.jsonl"
    tacit("data", "gsm8k", "--input", source, "--output", tmp_path / "test.txt")
    lines = (tmp_path / "test.txt").read_bytes().split(b"\n")
    assert len(lines) == 1319 + 1  # the last one is what follows the last line end
    assert lines[0].endswith(b"||<<16-3-4=9>> <<9*2=18>> #### 18")


def test_convert_and_split(tmp_path: Path) -> None:
    source, converted = tmp_path / "rows.json", tmp_path / "rows.jsonl"
    rows = [{"question": f"q{i % 20}", "steps": ["a", f"b{i}"], "answer": str(i)} for i in range(60)]
    source.write_text(json.dumps(rows))
    tacit("data", "convert", "--input", source, "--output", converted)
    assert [json.loads(line) for line in converted.read_text().splitlines()] == rows

    tacit("data", "split", "--input", converted, "--output_dir", tmp_path, "--num_validation", 4, "--num_test", 3)
    splits = {name: list(read_records(str(tmp_path / f"{name}.jsonl"))) for name in ("train", "validation", "test")}
    assert {name: len(records) for name, records in splits.items()} == {"train": 39, "validation": 12, "test": 9}
    assert sorted(int(record.answer) for records in splits.values() for record in records) == list(range(60))
    assert all(record.steps == ("a", f"b{record.answer}") for record in splits["test"])
    assert not {r.question for r in splits["train"]} & {r.question for r in splits["validation"] + splits["test"]}


def test_rows_whose_questions_differ_by_blanks_stay_together(tmp_path: Path) -> None:
    rows = [f"{i}{blank}+ 1||0 #### {i}\n" for i in range(9) for blank in (" ", "  ")]
    (tmp_path / "rows.txt").write_text("".join(rows))
    tacit("data", "split", "--input", tmp_path / "rows.txt", "--num_validation", 4, "--output_dir", tmp_path / "out")
    names = ("train", "validation")
    train, validation = ((tmp_path / "out" / f"{name}.txt").read_text().splitlines() for name in names)
    assert (len(train), len(validation)) == (10, 8)
    assert not {row[0] for row in train} & {row[0] for row in validation}


def test_a_table_with_columns_of_other_names_is_converted_and_split(tmp_path: Path) -> None:
    source, converted = tmp_path / "sums.csv", tmp_path / "sums.jsonl"
    rows = [f'"Add {i}, and 1.","{i}\n+ 1",{i + 1}' for i in range(20)]
    source.write_text("\n".join(["Question text,Worked,Final", *rows, "", "21,22"]))
    names = ["--columns.question", "Question text", "--columns.cot=Worked", "--columns.answer", "Final"]
    refused = tacit("data", "convert", "--input", source, "--output", converted, code=2).stderr
    assert f"{source}:1: no column `question` (its columns: 'Question text', 'Worked', 'Final'); " in refused
    broken = tacit("data", "convert", "--input", source, "--output", converted, *names, code=2).stderr
    assert f"{source}:42: blank line between rows; delete it." in broken

    skip = ["--on_bad_row", "skip"]
    finished = tacit("data", "convert", "--input", source, "--output", converted, *names, *skip).stdout
    assert "Wrote 20 rows" in finished and "skipped 2 broken rows" in finished and f"{source}:43: 2 cells" in finished
    first = json.loads(converted.read_text().splitlines()[0])
    assert first == {"question": "Add 0, and 1.", "cot": "0\n+ 1", "answer": "1"}
    tacit("data", "split", "--input", source, "--output_dir", tmp_path, "--num_validation", 4, *names, *skip)
    splits = {name: list(read_records(str(tmp_path / f"{name}.jsonl"))) for name in ("train", "validation")}
    assert {name: len(records) for name, records in splits.items()} == {"train": 16, "validation": 4}
    assert all(len(record.steps) == 2 for records in splits.values() for record in records)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--columns.question="], "--columns.question is empty"),
        (["--columns.answer", "cot"], "--columns.answer ('cot') is --columns.cot as well"),
        (["--columns.qestion", "x"], "--columns.qestion: unknown option of tacit data convert. Did you mean --columns"),
    ],
)
def test_columns_that_cannot_be_are_refused(tmp_path: Path, options: list[str], what: str) -> None:
    command = ["data", "convert", "--input", tmp_path / "rows.csv", "--output", tmp_path / "rows.jsonl"]
    assert what in tacit(*command, *options, code=2).stderr


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--split", "test", "is a file, and only data sets on the Hub have splits"),
        ("--columns.cot", "reasoning", "is text (`question||cot #### answer`), which names no columns"),
    ],
)
def test_options_that_rows_have_no_use_for_are_refused(tmp_path: Path, option: str, value: str, reason: str) -> None:
    source = tmp_path / "rows.txt"
    source.write_text("q||c #### 1\n")
    command = ["data", "convert", "--input", source, "--output", tmp_path / "rows.jsonl"]
    assert f"{option} ({value}): {source} {reason}" in tacit(*command, option, value, code=2).stderr
    tacit(*command)


def test_split_does_not_write_over_what_it_reads(tmp_path: Path) -> None:
    source = tmp_path / "train.txt"
    source.write_text("".join(f"q{i}||c #### {i}\n" for i in range(9)))
    before = source.read_text()
    command = ["data", "split", "--input", source, "--output_dir", tmp_path, "--num_validation", 4, "--overwrite"]
    for options in ([], ["--file_format", "jsonl"]):  # it would be written over, or removed
        assert f"{source}: is the input" in tacit(*command, *options, code=2).stderr
    assert source.read_text() == before
    assert list(tmp_path.iterdir()) == [source]


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("generated", [True, False])
@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--num_test", 0], {"train.txt", "validation.txt"}),
        (["--num_test", 2, "--file_format", "jsonl"], {"train.jsonl", "validation.jsonl", "test.jsonl"}),
    ],
)
def test_a_folder_never_holds_splits_of_two_calls(
    tmp_path: Path, generated: bool, options: list[object], left: set[str]
) -> None:
    source, folder = tmp_path / "rows.txt", tmp_path / "out"
    source.write_text("".join(f"q{i}||c #### {i}\n" for i in range(9)))
    command: list[object] = ["data", "parity", "--length", 8, "--num_train", 9, "--num_validation", 2]
    if not generated:
        command = ["data", "split", "--input", source, "--num_validation", 2]
    command += ["--output_dir", folder]
    tacit(*command, "--num_test", 2, "--file_format", "text")
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)

    for overwrite in ([], ["--overwrite"]):
        for name in ("train.txt", "validation.txt"):  # so that only the test is in the way
            (folder / name).rename(tmp_path / name)
        refused = tacit(*command, *options, *overwrite, code=2).stderr
        assert f"{folder}/test.txt: would stay beside the new splits" in refused
        for name in ("train.txt", "validation.txt"):
            (tmp_path / name).rename(folder / name)
        assert contents(folder) == before

    for path in folder.glob("t*.txt" if left == {"train.txt", "validation.txt"} else "[tv]*.txt"):
        path.unlink()
    tacit(*command, *options, "--seed", 1, "--overwrite")
    assert set(contents(folder)) == {*left, "notes.txt"}


def test_a_split_that_fails_loses_nothing(tmp_path: Path) -> None:
    source, folder = tmp_path / "rows.jsonl", tmp_path / "out"
    rows = [{"question": f"q{i}", "cot": "c", "answer": "1" if i < 9 else "1 || 2"} for i in range(10)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder.mkdir()
    for name in ("train.txt", "validation.txt"):
        (folder / name).write_text("old")
    before = contents(folder)
    command = ["data", "split", "--input", source, "--output_dir", folder, "--num_validation", 4, "--overwrite"]
    for seed in range(4):  # the row that text cannot hold is in one split or the other
        assert "would not read back" in tacit(*command, "--file_format", "text", "--seed", seed, code=2).stderr
        assert contents(folder) == before


def test_excluded_rows_may_lie_beside_the_new_ones(tmp_path: Path) -> None:
    published = tmp_path / "test.txt"
    published.write_text("1 * 1||1 #### 1\n")
    command = ["data", "multiplication", "--digits", "1x1", "--num_train", 70, "--num_validation", 10, "--num_test", 0]
    tacit(*command, "--output_dir", tmp_path, "--exclude", published)
    tacit(*command, "--output_dir", tmp_path, "--exclude", published, "--overwrite")
    assert published.read_text() == "1 * 1||1 #### 1\n"
    assert set(contents(tmp_path)) == {"train.txt", "validation.txt", "test.txt"}


def test_score_prints_a_sentence_or_json(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    rows = [("#### 1", "1"), ("2", "3"), ("1,000", "1000"), ("4", "4")]
    path.write_text("".join(json.dumps({"prediction": p, "answer": a}) + "\n" for p, a in rows))
    assert tacit("score", path).stdout.startswith("accuracy 0.7500 (3 of 4 rows), 95 % interval 0.30")
    report = json.loads(tacit("score", path, "--json").stdout)
    assert list(report) == ["accuracy", "num_correct", "num_examples", "confidence_interval"]
    assert (report["accuracy"], report["num_correct"], report["num_examples"]) == (0.75, 3, 4)
    assert report["confidence_interval"] == [pytest.approx(0.3006, abs=1e-3), pytest.approx(0.9544, abs=1e-3)]
    path.write_text("".join(json.dumps({"step": s, "prediction": "1", "answer": "1"}) + "\n" for s in (5, 5, 9)))
    assert "(steps 5, 9); add --step N" in tacit("score", path, code=2).stderr
    assert "(2 of 2 rows)" in tacit("score", path, "--step", 5).stdout
    path.write_text('{"prediction": "1"}\n')
    assert f"{path}:1: no `answer`" in tacit("score", path, code=2).stderr
    assert "Did you mean --json?" in tacit("score", path, "--jsn", code=2).stderr
