"""Tasks: every row is checked against exact integer arithmetic, and multiplication against the published rows."""

import random
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.records import CoTRecord, to_text_line
from pipeline.tasks import (
    Addition,
    Automaton,
    Multiplication,
    SparseMultiplication,
    Task,
    modular_sum,
    parity,
    symmetric_group_3,
)
from pipeline.tasks.addition import make_record as make_sum
from pipeline.tasks.digits import parse_range, write_digits
from pipeline.tasks.multiplication import Sums, make_record, parse_sizes

SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"


def value_of(digits: str) -> int:
    return int(digits.replace(" ", "")[::-1])


def test_digits_stand_least_significant_first() -> None:
    assert write_digits(37, 3) == "7 3 0"


# Multiplication

PUBLISHED = {
    (2967, 6361): "7 6 9 2 * 1 6 3 6||7 6 9 2 0 + 0 2 0 8 7 1 ( 7 8 9 0 8 1 ) + 0 0 1 0 9 8 0 ( 7 8 0 1 7 0 1 ) "
    "+ 0 0 0 2 0 8 7 1 #### 7 8 0 3 7 8 8 1",
    (1670, 3359): "0 7 6 1 * 9 5 3 3||0 3 0 5 1 + 0 0 5 3 8 0 ( 0 3 5 8 9 0 ) + 0 0 0 1 0 5 0 ( 0 3 5 9 9 5 0 ) "
    "+ 0 0 0 0 1 0 5 0 #### 0 3 5 9 0 6 5 0",
}


@pytest.mark.parametrize(("operands", "line"), PUBLISHED.items())
def test_multiplication_gives_published_lines(operands: tuple[int, int], line: str) -> None:
    assert to_text_line(make_record(*operands, num_digits=4)) == line


def test_multiplication_steps_by_hand() -> None:
    # 123 * 45 = 615 + 4920 = 5535
    assert make_record(123, 45, (3, 2)) == CoTRecord("3 2 1 * 5 4", ("5 1 6 0", "+ 0 2 9 4 0"), "5 3 5 5 0")
    assert make_record(99, 9, (2, 1)) == CoTRecord("9 9 * 9", ("1 9 8",), "1 9 8")
    assert make_record(12, 345, (2, 3)).steps == ("0 6 0", "+ 0 8 4 0", "( 0 4 5 0 )", "+ 0 0 6 3 0")


def test_sums_stand_between_the_products_behind_them_or_nowhere() -> None:
    # 12 * 3456 = 72 + 600 + 4800 + 36000
    products = ["2 7 0", "+ 0 0 6 0", "+ 0 0 8 4 0", "+ 0 0 0 6 3 0"]
    first_sum, second_sum = "( 2 7 6 0 )", "( 2 7 4 5 0 )"
    between, last, none = (list(make_record(12, 3456, (2, 4), sums).steps) for sums in get_args(Sums))
    assert between == [*products[:2], first_sum, products[2], second_sum, products[3]]
    assert last == [*products, first_sum, second_sum]
    assert none == products
    assert [make_record(12, 3, (2, 1), sums).steps for sums in get_args(Sums)] == 3 * [("6 3 0",)]


@pytest.mark.parametrize(("num_digits", "num_tokens"), [(4, 46), (5, 74), (7, 148), (9, 246), (11, 368)])
def test_multiplication_has_the_papers_number_of_tokens(num_digits: int, num_tokens: int) -> None:
    smallest = 10 ** (num_digits - 1)
    assert len(make_record(smallest, smallest, num_digits).cot.split()) == num_tokens


@pytest.mark.parametrize(("a", "b"), [(5, 12), (123, 12), (12, 0), (-12, 12)])
def test_operand_with_another_count_of_digits_is_refused(a: int, b: int) -> None:
    with pytest.raises(ValueError, match="must have 2 digits"):
        make_record(a, b, 2)


@given(st.integers(1, 10**12), st.integers(1, 10**6))
def test_multiplication_is_exact(a: int, b: int) -> None:
    record = make_record(a, b, (len(str(a)), len(str(b))))
    left, right = record.question.split(" * ")
    assert (value_of(left), value_of(right), value_of(record.answer)) == (a, b, a * b)
    total = 0
    for step in record.steps:
        if step.startswith("("):
            assert value_of(step.strip("( )")) == total
        else:
            total += value_of(step.removeprefix("+ "))
    assert total == a * b


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10), st.integers(1, 10), st.sampled_from(get_args(Sums)), st.randoms(use_true_random=False))
def test_lines_made_at_once_are_those_of_the_records(
    num_digits_a: int, num_digits_b: int, sums: Sums, rng: random.Random
) -> None:
    task = Multiplication(num_digits_a, num_digits_b, sums)  # products of up to 18 digits are made at once
    last = task.num_questions() - 1
    indices = [0, last, *(rng.randint(0, last) for _ in range(5))]
    assert task.text_lines(indices) == [to_text_line(task.record_at(index)) for index in indices]


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="../shared/data is absent")
@pytest.mark.parametrize("name", ["4x4_test", "4x4_valid", "5x5_test", "5x5_valid", "9x9_test"])
def test_published_files_are_regenerated_byte_for_byte(name: str) -> None:
    published = (SHARED_DATA / "multiplication" / f"{name}.txt").read_bytes()
    ours = []
    for line in published.decode().splitlines():
        left, right = line.partition("||")[0].split(" * ")
        ours.append(to_text_line(make_record(value_of(left), value_of(right), int(name[0]))) + "\n")
    assert len(ours) == 1000
    assert "".join(ours).encode() == published


def test_sizes_are_read() -> None:
    assert parse_sizes("4x4", "--digits") == [Multiplication(4, 4)]
    assert parse_sizes("2x3-3x4", "--digits") == [
        Multiplication(2, 3),
        Multiplication(2, 4),
        Multiplication(3, 3),
        Multiplication(3, 4),
    ]
    assert list(parse_range("3-5", "--length")) == [3, 4, 5]
    assert list(parse_range("3", "--length")) == [3]


@pytest.mark.parametrize(
    "text", ["", "4", "4x", "0x4", "4x4-3x5", "4x4-", "x", "4x4x4", "-4x4", "4 x 4", "1000x4", "4x44444"]
)
def test_wrong_sizes_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--digits \("):
        parse_sizes(text, "--digits")


@pytest.mark.parametrize("text", ["", "0", "5-3", "3-", "a", "1.5", "-3", "1000", "1-99999"])
def test_wrong_ranges_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--length \("):
        parse_range(text, "--length")


# Addition


def test_addition_by_hand() -> None:
    assert to_text_line(make_sum([12, 34, 56], 2)) == "2 1 + 4 3 + 6 5||( 6 4 0 ) #### 2 0 1"
    assert make_sum([9, 9, 9, 9], 1).steps == ("( 8 1 )", "( 7 2 )")


def test_addition_of_two_numbers_has_no_chain_of_thought() -> None:
    for num_operands in (2, 1000):
        with pytest.raises(UserError, match="must be at least 3"):
            Addition(num_operands=num_operands, num_digits=4)


@given(st.integers(1, 6).flatmap(lambda k: st.lists(st.integers(10 ** (k - 1), 10**k - 1), min_size=3, max_size=12)))
def test_addition_is_exact(operands: list[int]) -> None:
    record = make_sum(operands, len(str(operands[0])))
    assert [value_of(text) for text in record.question.split(" + ")] == operands
    sums = [value_of(step.strip("( )")) for step in record.steps] + [value_of(record.answer)]
    assert sums == [sum(operands[:count]) for count in range(2, len(operands) + 1)]
    assert len({len(step.split()) for step in (*record.steps, f"( {record.answer} )")}) == 1


# Automata


def test_parity_by_hand() -> None:
    questions = {record.question: record for record in all_records(Automaton(parity(), 4))}
    assert questions["1 0 1 1"] == CoTRecord("1 0 1 1", ("1", "1", "0", "1"), "1")


@given(st.integers(2, 12), st.integers(1, 30), st.randoms(use_true_random=False))
def test_modular_sum_is_exact(modulus: int, length: int, rng: object) -> None:
    task = Automaton(modular_sum(modulus, 10), length)
    record = task.record_at(rng.randrange(task.num_questions()))  # type: ignore[attr-defined]
    digits = [int(symbol) for symbol in record.question.split()]
    assert [int(step) for step in record.steps] == [sum(digits[: i + 1]) % modulus for i in range(length)]
    assert record.answer == record.steps[-1]


def test_s3_is_the_group_of_permutations() -> None:
    table = symmetric_group_3()
    for state in range(6):
        assert sorted(table[state]) == sorted(row[state] for row in table) == list(range(6))
        assert table[0][state] == table[state][0] == state
        for a in range(6):
            for b in range(6):
                assert table[table[state][a]][b] == table[state][table[a][b]], "not associative"
    assert any(table[a][b] != table[b][a] for a in range(6) for b in range(6)), "S3 does not commute"
    # Lexicographic: 1 = (0,2,1), 2 = (1,0,2), 3 = (1,2,0), 4 = (2,0,1). First 1, then 2: 0->0->1, 1->2->2, 2->1->0.
    assert table[1][2] == 3
    assert table[2][1] == 4


@pytest.mark.parametrize(
    ("transitions", "what"),
    [
        ((), "is empty"),
        (((),), "is empty"),
        (((0, 1), (1,)), "the row of state 1 has 1 entries"),
        (((0, 2), (1, 0)), "state 0 goes to 2 on symbol 1"),
        (((0, -1),), "state 0 goes to -1"),
    ],
)
def test_wrong_tables_are_refused(transitions: tuple[tuple[int, ...], ...], what: str) -> None:
    with pytest.raises(UserError, match=what):
        Automaton(transitions, 3)


# What holds for every task


def all_records(task: Task) -> list[CoTRecord]:
    return [task.record_at(index) for index in range(task.num_questions())]


@pytest.mark.parametrize(
    ("task", "num_questions"),
    [
        (Multiplication(1, 2), 9 * 90),
        (Multiplication(2, 1), 90 * 9),
        (SparseMultiplication(Multiplication(2, 3), 0), 9**5),
        (SparseMultiplication(Multiplication(2, 3), 2), 3 * 9**3),
        (SparseMultiplication(Multiplication(2, 3), 3), 9**2),
        (Addition(3, 1), 9**3),
        (Automaton(parity(), 5), 2**5),
        (Automaton(symmetric_group_3(), 3), 6**3),
    ],
)
def test_numbering_of_questions_is_a_bijection(task: Task, num_questions: int) -> None:
    assert task.num_questions() == num_questions
    assert len({record.question for record in all_records(task)}) == num_questions


@pytest.mark.parametrize("num_zeros", [1, 2, 3])
def test_numbers_hold_so_many_zeros_and_rows_are_those_of_the_whole_task(num_zeros: int) -> None:
    size = Multiplication(3, 2)
    of_size = {record.question: record for record in all_records(size)}
    task = SparseMultiplication(size, num_zeros)
    records = all_records(task)
    assert {record.question for record in records} == {
        question for question in of_size if question.count("0") == num_zeros
    }
    assert all(of_size[record.question] == record for record in records)
    some = range(0, task.num_questions(), 7)
    assert task.text_lines(some) == [to_text_line(records[index]) for index in some]


def test_sizes_beyond_64_bits_are_numbered() -> None:
    task = Multiplication(40, 40)
    assert task.record_at(task.num_questions() - 1).question == f"{write_digits(10**40 - 1, 40)} * {'9 ' * 39}9"
