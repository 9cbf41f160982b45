"""What a saved model is told, so that it is asked as it was trained."""

import json
from pathlib import Path

import pytest

from pipeline.answer_spec import FILE_NAME, AnswerSpec, load_spec
from pipeline.config import FormatConfig
from pipeline.errors import UserError

SPEC = AnswerSpec(
    format=FormatConfig(first_separator=" = ", keep_second_separator=False),
    num_removed=3,
    removes_all=False,
    side="left",
    unit="token",
    keep_positions=True,
    longest_cot=10,
)


def spec(**changes: object) -> AnswerSpec:
    return AnswerSpec(**{**SPEC.__dict__, **changes})


@pytest.mark.parametrize(
    ("changes", "shift"),
    [
        ({}, 3),
        ({"num_removed": 12}, 10),
        ({"removes_all": True}, 10),  # a threshold took all at 3: the answer stands behind the longest CoT
        ({"right_first": 2}, 1),
        ({"right_first": 2, "removes_all": True}, 8),
        ({"keep_positions": False}, 0),
        ({"keep_positions": False, "removes_all": True}, 0),
    ],
)
def test_shift(changes: dict[str, object], shift: int) -> None:
    assert spec(**changes).shift == shift


@pytest.mark.parametrize(("num_removed", "removes_all"), [(0, False), (9, False), (10, True), (11, True)])
def test_asked_at_another_number(num_removed: int, removes_all: bool) -> None:
    asked = SPEC.at(num_removed)
    assert (asked.num_removed, asked.removes_all) == (num_removed, removes_all)
    assert spec(num_removed=num_removed, removes_all=removes_all) == asked


@pytest.mark.parametrize(("num_removed", "removes_all"), [(3, False), (6, True)])
def test_beyond_the_threshold_at_which_all_went_all_goes(num_removed: int, removes_all: bool) -> None:
    assert spec(num_removed=4, removes_all=True).at(num_removed).removes_all is removes_all


@pytest.mark.parametrize("changes", [{}, {"num_removed": 10, "removes_all": True}, {"removes_all": True}], ids=str)
def test_asked_at_its_own_number_nothing_changes(changes: dict[str, object]) -> None:
    # The last: everything was removed from a threshold on, before the longest CoT was reached.
    own = spec(**changes)
    assert own.at(None) == own
    assert own.at(own.num_removed) == own


def test_saved_and_read_again(tmp_path: Path) -> None:
    SPEC.save(tmp_path)
    assert load_spec(tmp_path) == SPEC


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", json.dumps({"format": {"questoin": "x"}})])
def test_an_unreadable_spec_is_the_users_mistake(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(UserError, match=r"tacit\.json: .* give a model folder"):
        load_spec(tmp_path)
