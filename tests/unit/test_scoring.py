"""Scoring: answer extraction, exact match, Wilson's interval, files of predictions."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.scoring import ScoreReport, extract_answer, is_correct, score_file, wilson_interval


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("42", "42"),
        (" 42 ", "42"),
        ("#### 42", "42"),
        ("<<6*7=42>> #### 1,042 ", "1042"),
        ("#### 1 #### 2", "2"),
        ("7 8 0 3", "7 8 0 3"),
        ("reasoning ####", ""),
        ("", ""),
    ],
)
def test_answer_is_extracted(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


def test_match_is_exact() -> None:
    assert is_correct("<<1+1=2>> #### 2,000", "2000")
    assert not is_correct("2.0", "2")
    assert not is_correct("7 8", "78")
    assert not is_correct("", "2")


def test_wilson_interval_by_hand() -> None:
    # 8 of 10, z = 2: centre (0.8 + 0.2) / 1.4, half width 2 * sqrt(0.016 + 0.01) / 1.4
    lower, upper = wilson_interval(8, 10, z=2)
    assert lower == pytest.approx(1.0 / 1.4 - 2 * 0.026**0.5 / 1.4)
    assert upper == pytest.approx(1.0 / 1.4 + 2 * 0.026**0.5 / 1.4)
    # Published example values: 0 of 10 and 10 of 10 at 95 %
    assert wilson_interval(0, 10) == (0.0, pytest.approx(0.27753, abs=1e-4))
    assert wilson_interval(10, 10) == (pytest.approx(0.72247, abs=1e-4), 1.0)


@given(st.integers(1, 10_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_interval_encloses_the_share(counts: tuple[int, int]) -> None:
    correct, total = counts
    lower, upper = wilson_interval(correct, total)
    assert 0 <= lower <= correct / total <= upper <= 1
    mirrored = wilson_interval(total - correct, total)
    assert mirrored == (pytest.approx(1 - upper), pytest.approx(1 - lower))


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        wilson_interval(correct, total)


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_file_is_scored(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "p.jsonl",
        {"prediction": "<<1+1=2>> #### 2", "answer": "2", "question": "ignored"},
        {"prediction": "", "answer": "2"},
        {"prediction": "1000", "answer": "1,000"},
    )
    assert score_file(path) == ScoreReport(num_correct=2, num_examples=3)
    assert score_file(str(path)).accuracy == pytest.approx(2 / 3)
    assert score_file(path).confidence_interval == wilson_interval(2, 3)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prediction": "1"}, "no `answer`"),
        ({"answer": "1"}, "no `prediction`"),
        ({"prediction": 1, "answer": "1"}, "`prediction` (1) is not a string"),
        ({"prediction": "1", "answer": None}, "`answer` (None) is not a string"),
        ({"prediction": "", "answer": "#### "}, "empty `answer`"),
        ([1], "holds a list; a row is an object with `prediction` and `answer`."),
        ("nonsense", "not valid JSON"),
        ("", "blank line"),
    ],
)
def test_broken_row_names_file_and_line(tmp_path: Path, row: object, what: str) -> None:
    good = {"prediction": "1", "answer": "1"}
    path = write_rows(tmp_path / "p.jsonl", good, row, good)
    with pytest.raises(UserError) as caught:
        score_file(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert what in str(caught.value)


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        score_file(tmp_path / "missing.jsonl")
    with pytest.raises(UserError, match="holds no rows"):
        score_file(write_rows(tmp_path / "empty.jsonl"))


def test_models_are_not_scored_together(tmp_path: Path) -> None:
    rows = [{"model": name, "prediction": "1", "answer": "1"} for name in ("a", "b")]
    with pytest.raises(UserError, match="holds answers of 2 models"):
        score_file(write_rows(tmp_path / "samples.jsonl", *rows))
    assert score_file(write_rows(tmp_path / "one.jsonl", rows[0])).num_correct == 1


def test_evaluations_are_scored_one_at_a_time(tmp_path: Path) -> None:
    rows = [{"step": step, "prediction": "1", "answer": answer} for step, answer in ((2, "1"), (10, "1"), (2, "3"))]
    path = write_rows(tmp_path / "samples.jsonl", *rows)
    with pytest.raises(UserError, match=r"several evaluations \(steps 2, 10\); add --step N"):
        score_file(path)
    assert score_file(path, step=2) == ScoreReport(num_correct=1, num_examples=2)
    assert score_file(path, step=10) == ScoreReport(num_correct=1, num_examples=1)
    with pytest.raises(UserError, match=r"--step \(3\).*its steps are 2, 10; name one"):
        score_file(path, step=3)

    one = write_rows(tmp_path / "one.jsonl", rows[0], rows[2])
    assert score_file(one) == score_file(one, step=2) == ScoreReport(num_correct=1, num_examples=2)
    none = write_rows(tmp_path / "none.jsonl", {"prediction": "1", "answer": "1"})
    with pytest.raises(UserError, match=r"--step \(2\).*none has a `step`; leave it out"):
        score_file(none, step=2)
    mixed = write_rows(tmp_path / "mixed.jsonl", rows[0], {**rows[1], "step": 10.0}, {"prediction": "1", "answer": "1"})
    with pytest.raises(UserError, match=r"several evaluations \(steps 2, 10.0, and rows without a `step`\)"):
        score_file(mixed)
    assert score_file(mixed, step=10) == ScoreReport(num_correct=1, num_examples=1)
    for wrong in ("2", True, [2]):
        with pytest.raises(UserError, match=r"wrong.jsonl:1: `step` is .*; it is a number"):
            score_file(write_rows(tmp_path / "wrong.jsonl", {**rows[0], "step": wrong}))
    many = write_rows(tmp_path / "many.jsonl", *({**rows[0], "step": step} for step in range(10, 400, 10)))
    with pytest.raises(UserError, match=r"\(steps 10, 20, 30, \.\.\., 390\)"):
        score_file(many)
