"""Splits of generated data: disjoint, exact, deterministic, and fair between sizes."""

import random
from collections import Counter

import pytest

from pipeline.errors import UserError
from pipeline.records import CoTRecord, to_text_line
from pipeline.tasks import (
    Addition,
    Automaton,
    Multiplication,
    SparseMultiplication,
    generate_splits,
    parity,
    sample_places,
    splits,
)


def draw(*args: object, **options: object) -> dict[str, list[CoTRecord]]:
    return {name: list(rows) for name, rows in generate_splits(*args, **options).items()}  # type: ignore[arg-type]


def test_a_space_is_used_up_exactly() -> None:
    splits = draw([Multiplication(1, 1)], 50, 20, 11, seed=3)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 50, "validation": 20, "test": 11}
    questions = [record.question for rows in splits.values() for record in rows]
    assert sorted(questions) == sorted(f"{a} * {b}" for a in range(1, 10) for b in range(1, 10))


def test_excluded_questions_are_in_no_split() -> None:
    excluded = {f"{a} * {b}" for a in range(1, 10) for b in range(1, 4)}
    splits = draw([Multiplication(1, 1)], 44, 5, 5, seed=0, exclude={*excluded, "not a question of this task"})
    questions = {record.question for rows in splits.values() for record in rows}
    assert len(questions) == 54
    assert not questions & excluded


@pytest.mark.parametrize("rows_at_once", [1, 7, 8192])
def test_lines_are_those_of_the_records(monkeypatch: pytest.MonkeyPatch, rows_at_once: int) -> None:
    monkeypatch.setattr(splits, "ROWS_AT_ONCE", rows_at_once)
    tasks = [Multiplication(1, 1), Multiplication(2, 2), Addition(3, 1), Automaton(parity(), 12)]
    drawn = generate_splits(tasks, 300, 20, 10, seed=0, exclude={"1 * 1", "1 + 1 + 1"})
    assert [len(split) for split in drawn.values()] == [10, 20, 300]
    for split in drawn.values():
        assert list(split.text_lines()) == [to_text_line(record) for record in split]
    monkeypatch.undo()
    assert draw(tasks, 300, 20, 10, seed=0, exclude={"1 * 1", "1 + 1 + 1"})["train"] == list(drawn["train"])


@pytest.mark.parametrize(("exclude", "num_train"), [((), 82), (("1 * 1",), 81)])
def test_too_small_a_space_is_refused_with_numbers(exclude: tuple[str, ...], num_train: int) -> None:
    with pytest.raises(
        UserError, match=rf"\({num_train}\) must not be above .* \(81( less 1 excluded)?\); ask for fewer"
    ):
        generate_splits([Multiplication(1, 1)], num_train, 0, 0, seed=0, exclude=exclude)


def test_a_share_of_the_training_rows_is_easier_and_no_row_comes_twice() -> None:
    size = Multiplication(2, 2)
    easier = [SparseMultiplication(size, num_zeros) for num_zeros in (1, 2)]
    excluded = {record.question for record in map(size.record_at, range(0, 8100, 5))}
    plain = draw([size], 700, 50, 60, seed=4, exclude=excluded)
    mixed = draw([size], 1000, 50, 60, seed=4, exclude=excluded, easier=easier, easier_share=0.3)
    assert {**mixed, "train": mixed["train"][:700]} == plain
    assert all("0" in record.question for record in mixed["train"][700:])
    questions = [record.question for rows in mixed.values() for record in rows]
    assert len(set(questions)) == len(questions) == 1110
    assert not excluded & set(questions)


def test_too_few_easier_questions_are_refused_with_numbers() -> None:
    easier = [SparseMultiplication(Multiplication(2, 1), 1)]  # 81 of 810
    with pytest.raises(UserError, match=r"\(82: a share of 0\.82 .*\) must not be above .* \(81\); ask for fewer"):
        generate_splits([Multiplication(2, 1)], 100, 0, 0, seed=0, easier=easier, easier_share=0.82)
    with pytest.raises(UserError, match=r"\(81 less [0-9]+ excluded\)"):
        generate_splits([Multiplication(2, 1)], 405, 0, 0, seed=0, easier=easier, easier_share=0.2)


@pytest.mark.parametrize("counts", [(-1, 5, 5), (0, 0, 0)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(UserError):
        generate_splits([Multiplication(1, 1)], *counts, seed=0)


def test_split_of_zero_rows_is_left_out() -> None:
    assert set(generate_splits([Multiplication(2, 2)], 5, 0, 0, seed=0)) == {"train"}


def test_seed_decides_and_evaluation_does_not_depend_on_training() -> None:
    first = draw([Multiplication(4, 4)], 30, 10, 10, seed=7)
    assert draw([Multiplication(4, 4)], 30, 10, 10, seed=7) == first
    assert draw([Multiplication(4, 4)], 30, 10, 10, seed=8) != first
    longer = draw([Multiplication(4, 4)], 60, 10, 10, seed=7)
    assert (longer["test"], longer["validation"], longer["train"][:30]) == (
        first["test"],
        first["validation"],
        first["train"],
    )
    # Pinned, so that the same seed keeps giving the same files from release to release.
    assert [record.question for record in first["test"][:2]] == ["9 4 2 3 * 3 3 6 6", "0 2 7 1 * 5 9 8 1"]


def test_splits_may_be_read_in_any_order() -> None:
    lazily = generate_splits([Multiplication(3, 3)], 10, 5, 5, seed=1)
    backwards = {name: list(lazily[name]) for name in reversed(list(lazily))}
    assert backwards == draw([Multiplication(3, 3)], 10, 5, 5, seed=1)


def test_sizes_are_mixed_evenly_until_one_is_used_up() -> None:
    tasks = [Multiplication(1, 1), Multiplication(2, 2), Multiplication(9, 9)]
    sizes = Counter(len(r.question.split()) for r in draw(tasks, 3000, 0, 0, seed=0)["train"])
    assert sizes[3] == 81
    assert sizes[5] + sizes[19] == 2919
    assert abs(sizes[5] - sizes[19]) < 5 * 2919**0.5


def test_every_order_of_a_small_space_is_equally_likely() -> None:
    rng = random.Random(0)
    task = Automaton(((0, 0, 0),), 1)  # three questions
    orders = Counter(tuple(index for _, index in sample_places([task], rng)) for _ in range(6000))
    assert len(orders) == 6
    assert all(abs(count - 1000) < 5 * 1000**0.5 for count in orders.values())


def test_spaces_beyond_64_bits_are_sampled() -> None:
    rows = draw([Automaton(parity(), 200)], 20, 0, 0, seed=0)["train"]
    assert len({record.question for record in rows}) == 20
