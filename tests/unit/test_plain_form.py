"""Arithmetic as it is typed, and as its task writes it."""

import pytest

from pipeline.errors import UserError
from pipeline.tasks import Addition, Multiplication
from pipeline.tasks.plain_form import TaskName, plain_form, read_arithmetic, read_number


@pytest.mark.parametrize("typed", ["1234 * 567", "1234*567", "1234 x 567", "1234X567", "1234 × 567", "1234  *\t567"])
@pytest.mark.parametrize("task", ["auto", "multiplication"])
def test_a_product_is_written_as_its_task_writes_it(typed: str, task: TaskName) -> None:
    read = read_arithmetic(typed, task)
    assert read is not None
    assert read.record.question == "4 3 2 1 * 7 6 5"
    assert read.result == 699_678
    assert read_number(read.record.answer) == read.result


def test_a_sum_is_written_as_its_task_writes_it() -> None:
    read = read_arithmetic("12 + 34+56", "auto")
    assert read is not None
    assert (read.record.question, read.record.answer, read.result) == ("2 1 + 4 3 + 6 5", "2 0 1", 102)


@pytest.mark.parametrize(
    "text", ["4 3 2 1 * 8 7 6 5", "12 + 34", "12 * 34 * 56", "12 * 34 = ?", "-12 * 34", "1,234 * 5", "1.5 * 2"]
)
def test_what_is_not_plain_is_asked_as_it_stands(text: str) -> None:
    assert read_arithmetic(text, "auto") is None


def test_text_is_never_read() -> None:
    assert read_arithmetic("12 * 34", "text") is None


@pytest.mark.parametrize(
    ("text", "task", "rule"),
    [
        ("0 * 5", "auto", "multiplies by 0"),
        ("12 + 3 + 4", "auto", "equally many digits"),
        ("0 + 3 + 4", "auto", "none of them 0"),
        ("12 + 34", "addition", "three numbers or more"),
        ("12 + 34 + 56", "multiplication", "1234 * 5678"),
        ("9" * 1000 + " * 5", "multiplication", "1234 * 5678"),
    ],
)
def test_what_the_task_has_no_question_for_is_refused_in_one_line(text: str, task: TaskName, rule: str) -> None:
    with pytest.raises(UserError, match=rule.replace("*", r"\*")) as refusal:
        read_arithmetic(text, task)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 250


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("7 3 0", 37),
        ("7", 7),
        ("0 0", 0),
        ("", None),
        ("7 3 ", None),
        ("73", None),
        ("7 x", None),
        ("7 " * 9000 + "1", None),
    ],
)
def test_an_answer_is_read_back(written: str, number: int | None) -> None:
    assert read_number(written) == number


@pytest.mark.parametrize("task", [Multiplication(3, 2), Multiplication(1, 1), Addition(3, 2), Addition(4, 1)])
def test_a_question_of_a_task_goes_into_plain_form_and_back(task: Multiplication | Addition) -> None:
    for index in range(0, task.num_questions(), task.num_questions() // 50):
        record = task.record_at(index)
        read = read_arithmetic(plain_form(record.question), "auto")
        assert read is not None and read.record == record


@pytest.mark.parametrize("question", ["0 1 0 1", "4 3 0 * 2 1", "2 1 + 4 3", "How many apples?", ""])
def test_other_questions_have_no_plain_form(question: str) -> None:
    assert plain_form(question) == question
