"""How a row is put together: separators, labels and position ids."""

import pytest

from pipeline.layout import SequenceLayout, assemble_prompt, assemble_row
from pipeline.removal import CoTExample

END, PAD = 9, 0
ONE_FOR_ALL = SequenceLayout((END,), (END,), END, PAD)  # the paper's: separators are the end token
WITH_COT = CoTExample((1, 2, 3), (4, 5), (6, END))
WITHOUT_COT = CoTExample((1, 2, 3), (), (6, END))


@pytest.mark.parametrize(
    ("first", "second", "keep", "example", "ids", "label_start"),
    [
        ((END,), (END,), True, WITH_COT, [1, 2, 3, 9, 4, 5, 9, 6, 9], 4),
        ((END,), (END,), False, WITH_COT, [1, 2, 3, 9, 4, 5, 9, 6, 9], 4),
        ((END,), (END,), True, WITHOUT_COT, [1, 2, 3, 9, 9, 6, 9], 4),  # both separators stay
        ((END,), (END,), False, WITHOUT_COT, [1, 2, 3, 9, 6, 9], 4),  # the second goes with the CoT
        ((7, 8), (7,), True, WITH_COT, [1, 2, 3, 7, 8, 4, 5, 7, 6, 9], 5),
        ((7, 8), (7, 7, 8), True, WITHOUT_COT, [1, 2, 3, 7, 8, 7, 7, 8, 6, 9], 5),
        ((), (), True, WITH_COT, [1, 2, 3, 4, 5, 6, 9], 3),
    ],
)
def test_parts_stand_in_order_and_labels_begin_behind_the_first_separator(
    first: tuple[int, ...],
    second: tuple[int, ...],
    keep: bool,
    example: CoTExample,
    ids: list[int],
    label_start: int,
) -> None:
    row = assemble_row(example, SequenceLayout(first, second, END, PAD, keep_second_separator=keep))
    assert row.input_ids.tolist() == ids
    assert row.label_start == label_start
    assert row.position_ids.tolist() == list(range(len(ids)))


def test_a_separator_inside_the_question_moves_nothing() -> None:
    # Nothing is found by searching for the separator's id, so a question may hold it.
    row = assemble_row(CoTExample((END, 1, END), (END, 4), (6, END)), ONE_FOR_ALL)
    assert row.input_ids.tolist() == [9, 1, 9, 9, 9, 4, 9, 6, 9]
    assert row.label_start == 4


def test_kept_positions_shift_from_the_first_separator_on() -> None:
    # A CoT of 7 tokens of which 5 are gone: what is left stands where it stood.
    row = assemble_row(WITH_COT, ONE_FOR_ALL, shift=5)
    assert row.position_ids.tolist() == [0, 1, 2, 8, 9, 10, 11, 12, 13]
    assert row.label_start == 4
    full = assemble_row(CoTExample((1, 2, 3), (0, 0, 0, 0, 0, 4, 5), (6, END)), ONE_FOR_ALL)
    assert row.position_ids[4:].tolist() == full.position_ids[9:].tolist()
    assert row.input_ids[4:].tolist() == full.input_ids[9:].tolist()


def test_prompt_is_the_beginning_of_the_row() -> None:
    for layout in (ONE_FOR_ALL, SequenceLayout((7, 8), (7,), END, PAD), SequenceLayout((), (7,), END, PAD)):
        for shift in (0, 5):
            row = assemble_row(WITH_COT, layout, shift)
            prompt = assemble_prompt(WITH_COT.question_ids, layout, shift)
            assert len(prompt.input_ids) == row.label_start
            assert prompt.input_ids.tolist() == row.input_ids[: row.label_start].tolist()
            assert prompt.position_ids.tolist() == row.position_ids[: row.label_start].tolist()


@pytest.mark.parametrize(
    ("second", "keep", "has_cot", "num_end_tokens"),
    [
        ((END,), True, True, 2),  # cot END answer END
        ((END,), True, False, 2),
        ((END,), False, True, 2),
        ((END,), False, False, 1),  # answer END
        ((7,), True, True, 1),
        ((END, 7, END), True, False, 3),
        ((), True, True, 1),
    ],
)
def test_end_tokens_of_a_full_continuation(
    second: tuple[int, ...], keep: bool, has_cot: bool, num_end_tokens: int
) -> None:
    layout = SequenceLayout((END,), second, END, PAD, keep_second_separator=keep)
    assert layout.num_end_tokens(has_cot) == num_end_tokens
    row = assemble_row(WITH_COT if has_cot else WITHOUT_COT, layout)
    assert row.input_ids[row.label_start :].tolist().count(END) == num_end_tokens
