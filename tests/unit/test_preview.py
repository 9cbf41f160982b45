"""What `tacit preview` shows: rows and counts worked out by hand, and the same as training takes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pipeline.batching import IGNORE_INDEX, RemovalRule, epoch_offsets, epoch_order
from pipeline.config import ScheduleConfig
from pipeline.config.schema import AdaptiveConfig
from pipeline.controller import StageController
from pipeline.errors import UserError
from pipeline.layout import SequenceLayout, assemble_row
from pipeline.modeling import build_tokenizer
from pipeline.preparation import load_data
from pipeline.preview.preview import MicroBatchShape, Preview, make_preview
from pipeline.preview.rows import ShownRow, cot_left, show_row, token_text
from pipeline.preview.stages import choose_stages, course_of
from pipeline.removal import CoTExample, remove_cot_tokens
from pipeline.schedule import Stage
from pipeline.word_tokenizer import build_word_tokenizer
from tests.gpt2_style import END, build_gpt2_style
from tests.tiny import tiny_config

# A row: question 1 2, separator 40, CoT 11 12 13 in steps of 1 and 2, separator 50 51, answer 8, end 0.
EXAMPLE = CoTExample((1, 2), (11, 12, 13), (8, 0), (1, 2))
LAYOUT = SequenceLayout((40,), (50, 51), end_id=0, pad_id=9)


def shown(
    num_removed: int,
    side: Any = "left",
    unit: Any = "token",
    shift: int = 0,
    keeps: bool = True,
    right_first: int = 0,
) -> ShownRow:
    layout = SequenceLayout((40,), (50, 51), end_id=0, pad_id=9, keep_second_separator=keeps)
    row = assemble_row(remove_cot_tokens(EXAMPLE, num_removed, side, unit, right_first), layout, shift)
    return show_row(7, None, EXAMPLE, row, layout, side, right_first, str)


def ids(row: ShownRow, part: str, removed: bool = False) -> list[int]:
    return [token.id for token in row.tokens if token.part == part and token.is_removed == removed]


# A row taken apart


def test_a_whole_row_has_every_token_in_its_part() -> None:
    row = shown(0)
    assert [(token.id, token.part, token.position, token.has_loss) for token in row.tokens] == [
        (1, "question", 0, False),
        (2, "question", 1, False),
        (40, "first_separator", 2, False),
        (11, "cot", 3, True),
        (12, "cot", 4, True),
        (13, "cot", 5, True),
        (50, "second_separator", 6, True),
        (51, "second_separator", 7, True),
        (8, "answer", 8, True),
        (0, "end", 9, True),
    ]
    assert (row.row_number, row.num_cot, row.num_removed, row.shift) == (7, 3, 0, 0)
    assert [token.text for token in row.tokens[:3]] == ["1", "2", "40"]


@pytest.mark.parametrize(
    ("num_removed", "side", "unit", "gone", "left"),
    [
        (1, "left", "token", [11], [12, 13]),
        (2, "right", "token", [12, 13], [11]),
        (1, "left", "step", [11], [12, 13]),
        (1, "right", "step", [12, 13], [11]),
        (9, "left", "token", [11, 12, 13], []),
    ],
)
def test_what_is_removed_stands_where_it_stood(
    num_removed: int, side: str, unit: str, gone: list[int], left: list[int]
) -> None:
    row = shown(num_removed, side, unit)
    assert (ids(row, "cot", removed=True), ids(row, "cot")) == (gone, left)
    assert [token.id for token in row.tokens] == [1, 2, 40, 11, 12, 13, 50, 51, 8, 0]
    assert row.num_removed == len(gone)
    assert all(token.position is None and not token.has_loss for token in row.tokens if token.id in gone)
    positions = [token.position for token in row.tokens if not token.is_removed]
    assert positions == list(range(10 - len(gone)))


@pytest.mark.parametrize(("num_removed", "left"), [(0, [11, 12, 13]), (1, [11, 12]), (2, [12]), (3, []), (9, [])])
def test_what_goes_from_the_right_first_stands_where_it_stood(num_removed: int, left: list[int]) -> None:
    row = shown(num_removed, right_first=1)
    assert ids(row, "cot") == left
    assert [token.id for token in row.tokens] == [1, 2, 40, 11, 12, 13, 50, 51, 8, 0]


def test_kept_positions_jump_from_the_first_separator_on() -> None:
    row = shown(2, shift=2)
    assert [token.position for token in row.tokens] == [0, 1, 4, None, None, 5, 6, 7, 8, 9]
    assert row.shift == 2


def test_a_second_separator_that_goes_with_the_cot_counts_as_removed() -> None:
    assert ids(shown(2, keeps=False), "second_separator") == [50, 51]
    row = shown(3, keeps=False)
    assert ids(row, "second_separator", removed=True) == [50, 51]
    assert [token.id for token in row.tokens if not token.is_removed] == [1, 2, 40, 8, 0]
    assert row.num_removed == 3


def test_cot_left_of_many_rows() -> None:
    # Separators take 3: a row of 10 has 3 of CoT, one without CoT 7, and 5 where the second separator went with it.
    assert cot_left(np.array([10, 7, 5]), np.array([2, 2, 2]), np.array([2, 2, 2]), LAYOUT).tolist() == [3, 0, 0]


# Texts of tokens


def sentence_piece_style() -> PreTrainedTokenizerFast:
    words = ["<unk>", "</s>", "▁", "▁▁▁", "▁the", "lock", "<0xE2>"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


def texts(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> list[str]:
    return [token_text(tokenizer, tokenizer.convert_tokens_to_ids(name)) for name in names]


def test_texts_of_tokens_have_the_blanks_that_belong_to_them() -> None:
    assert texts(build_word_tokenizer(), ["1", "####", "<eos>"]) == ["1", "####", "<eos>"]
    gpt2 = build_gpt2_style()
    assert texts(gpt2, ["Ġ1", "Ġ####", "Ċ", END]) == [" 1", " ####", "\n", END]
    assert texts(sentence_piece_style(), ["▁", "▁▁▁", "▁the", "lock", "</s>"]) == [" ", "   ", " the", "lock", "</s>"]


def test_a_part_of_a_character_is_named_as_in_the_vocabulary() -> None:
    assert texts(build_gpt2_style(), ["â"]) == ["â"]  # the first of the three bytes of a dash
    assert texts(sentence_piece_style(), ["<0xE2>"]) == ["<0xE2>"]


def test_the_texts_of_a_row_are_its_text() -> None:
    tokenizer = build_gpt2_style()
    text = " how many apples  12 + 3 <|endoftext|> #### x"
    assert "".join(token_text(tokenizer, token_id) for token_id in tokenizer(text).input_ids) == text


# Stages


def numbers(stages: Sequence[Stage]) -> list[int]:
    return [stage.num_removed for stage in stages]


def test_the_course_of_a_fixed_schedule_is_that_of_training() -> None:
    course = course_of(ScheduleConfig(removed_per_epoch=5, hold_epochs=1), steps_per_epoch=10, longest_cot=3)
    assert [(stage.num_removed, stage.first_step, stage.smooths) for stage in course] == [
        (0, 0, False),
        (0, 10, True),
        (1, 12, True),
        (2, 14, True),
        (3, 16, True),
    ]


@pytest.mark.parametrize(("kind", "removed", "removes_all"), [("no_cot", 5, True), ("explicit_cot", 0, False)])
def test_a_baseline_has_one_stage(kind: Any, removed: int, removes_all: bool) -> None:
    (stage,) = course_of(ScheduleConfig(kind=kind), steps_per_epoch=10, longest_cot=5)
    assert (stage.num_removed, stage.removes_all, stage.smooths) == (removed, removes_all, False)


def test_an_adaptive_course_begins_each_stage_as_early_as_can_be() -> None:
    adaptive = AdaptiveConfig(window=4, min_steps=6, removed_per_stage=2)
    config = ScheduleConfig(kind="adaptive", start_removed=1, adaptive=adaptive)
    course = course_of(config, steps_per_epoch=10, longest_cot=6)
    assert [(stage.num_removed, stage.first_step) for stage in course] == [(1, 0), (3, 6), (5, 12), (6, 18)]
    assert [stage.removes_all for stage in course] == [False, False, False, True]
    cut = ScheduleConfig(kind="adaptive", start_removed=1, adaptive=adaptive, max_steps=12)
    assert numbers(course_of(cut, 10, 6)) == [1, 3]


def course(*removed: int) -> list[Stage]:
    return [Stage(i, number, False, 10 * i, True, True) for i, number in enumerate(removed)]


@pytest.mark.parametrize(
    ("removed", "wanted", "chosen"),
    [
        (range(9), None, [0, 2, 4, 8]),
        (range(3), None, [0, 1, 2]),
        ([7], None, [7]),
        ([0, 0, 1, 2, 3, 4], None, [0, 1, 2, 4]),
        (range(9), "last", [8]),
        (range(9), "8, 0,last", [0, 8]),
        ([0, 0, 1], "0", [0, 0]),  # held, then smoothed
        ([2, 4, 5], "5,2", [2, 5]),
    ],
)
def test_stages_are_chosen_in_the_order_of_the_run(
    removed: Sequence[int], wanted: str | None, chosen: list[int]
) -> None:
    assert numbers(choose_stages(course(*removed), wanted)) == chosen


@pytest.mark.parametrize(
    ("removed", "wanted", "says"),
    [
        ([0, 2, 4], "1", "--stages (1): no stage of this run has '1' removed units; take from 0, 2, 4 or last."),
        (range(47), "0,99,x", "no stage of this run has '99', 'x' removed units; take from 0, 1, 2, ..., 46 or last."),
        ([0], "", "has '' removed units; take from 0 or last."),
        ([0, 1], "01", "has '01' removed units"),
    ],
)
def test_an_unknown_stage_is_refused(removed: Sequence[int], wanted: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        choose_stages(course(*removed), wanted)
    assert says in str(error.value)


# A whole preview


ROWS = ("1 2||3 4 5 #### 6", "7||8 #### 9", "1||2 3 #### 4", "3 4 5||6 #### 7 8")
COT_LENGTHS = (3, 1, 2, 1)


def preview(
    folder: Path, num_rows: int = 2, num_ranks: int = 1, stages: str | None = None, **overrides: Any
) -> Preview:
    (folder / "rows.txt").write_text("\n".join(ROWS) + "\n")
    settings: dict[str, Any] = {
        "data__train": str(folder / "rows.txt"),
        "schedule": {"removed_per_epoch": 1, "final_epochs": 1},
        "removal": {"smoothing_lambda": float("inf")},
    }
    return make_preview(tiny_config(folder, **{**settings, **overrides}), num_rows, num_ranks, stages)


def test_the_counts_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    told = preview(tmp_path)
    assert (told.num_rows, told.num_counted, told.steps_per_epoch, told.num_removed) == (4, 4, 1, [0, 1, 2, 3])
    first, second, last = [stage.counts for stage in told.stages]  # 0, 1 and 3 removed
    # Questions of 2, 1, 1, 3 tokens, answers of 1, 1, 1, 2; two separators and the end are 3 more.
    assert (first.question.mean, first.question.longest) == (1.75, 3)
    assert (first.answer.mean, first.answer.longest) == (1.25, 2)
    assert (first.cot.mean, first.cot.longest, first.share_with_cot) == (1.75, 3, 1.0)
    assert (first.row.mean, first.row.longest) == (7.75, 9)
    assert (second.cot.mean, second.cot.longest, second.share_with_cot) == (0.75, 2, 0.5)
    assert (second.row.mean, second.row.longest) == (6.75, 8)
    assert (last.cot.mean, last.cot.longest, last.share_with_cot) == (0.0, 0, 0.0)
    assert (last.row.mean, last.row.longest) == (6.0, 8)
    assert {counts.share_smoothed for counts in (first, second, last)} == {0.0}


def test_a_global_batch_is_laid_out_as_worked_out_by_hand(tmp_path: Path) -> None:
    # Rows of 9, 6, 7, 9 tokens.
    assert preview(tmp_path, stages="0").stages[0].ranks == [[MicroBatchShape(4, 9, 31)]]
    two = preview(tmp_path, num_ranks=2, stages="0").stages[0].ranks
    assert two == [[MicroBatchShape(2, 9, 18)], [MicroBatchShape(2, 7, 13)]]
    short = preview(tmp_path, stages="0", engine={"micro_batch_tokens": 18}).stages[0].ranks
    assert short == [[MicroBatchShape(2, 9, 18), MicroBatchShape(2, 7, 13)]]
    many = preview(tmp_path, num_ranks=5, stages="0").stages[0].ranks
    assert sorted(shape.num_rows for (shape,) in many) == [0, 1, 1, 1, 1]
    assert [shape for (shape,) in many if not shape.num_rows] == [MicroBatchShape(0, 1, 0)]


def test_the_rows_are_the_first_that_the_seed_draws(tmp_path: Path) -> None:
    for seed in (0, 1):
        told = preview(tmp_path, num_rows=3, run={"output_dir": "x", "seed": seed})
        for stage in told.stages:
            assert [row.row_number for row in stage.rows] == epoch_order(4, seed, 0)[:3].tolist()
    assert len(preview(tmp_path, num_rows=99).stages[0].rows) == 4


def test_offsets_are_those_of_the_epoch_and_take_effect(tmp_path: Path) -> None:
    removal = {"smoothing_lambda": 0.7, "earlier_share": 0.4}
    told = preview(tmp_path, num_rows=4, removal=removal)
    config = tiny_config(tmp_path, data__train=str(tmp_path / "rows.txt"), removal=removal)
    examples, _ = load_data(config, build_tokenizer(config.model))
    rule = RemovalRule(config.removal, examples.longest_cot("token"))
    for stage in told.stages:
        assert stage.epoch == stage.stage.first_step  # one step an epoch
        drawn = epoch_offsets(4, 0, stage.epoch, stage.stage, rule)
        assert (stage.counts.share_earlier, stage.counts.share_smoothed) == (np.mean(drawn < 0), np.mean(drawn > 0))
        for row in stage.rows:
            assert row.offset == drawn[row.row_number]
            length = COT_LENGTHS[row.row_number]
            scheduled = stage.stage.num_removed + row.offset
            takes_all = stage.stage.removes_all and row.offset >= 0
            assert row.num_removed == (length if takes_all else min(scheduled, length))
    offsets = [row.offset for stage in told.stages for row in stage.rows]
    assert min(offsets) < 0 < max(offsets)


def test_a_held_stage_draws_no_offset(tmp_path: Path) -> None:
    schedule = {"removed_per_epoch": 1, "hold_epochs": 2, "final_epochs": 1}
    told = preview(tmp_path, stages="0", schedule=schedule, removal={"smoothing_lambda": 0.1})
    held, smoothed = told.stages
    assert [row.offset for row in held.rows] == [None, None]
    assert (held.counts.share_smoothed, held.counts.cot.mean) == (0.0, 1.75)
    assert all(row.offset is not None for row in smoothed.rows)
    assert smoothed.counts.share_smoothed > 0


def test_long_files_are_counted_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.preview.preview.MOST_COUNTED", 1)
    told = preview(tmp_path, stages="0")
    assert (told.num_rows, told.num_counted) == (4, 1)
    first = int(epoch_order(4, 0, 0)[0])
    assert told.stages[0].counts.cot.mean == COT_LENGTHS[first]


class EngineStandIn:
    """All of the engine that a controller asks for between two batches."""

    def reset_optimizer_state(self) -> None:
        """Do nothing."""

    def moment_norms(self) -> tuple[float, float]:
        """Return what nobody reads here."""
        return 0.0, 0.0


@pytest.mark.parametrize(
    "removal",
    [
        {"smoothing_lambda": 0.7},
        {"smoothing_lambda": 0.7, "keep_positions": True},
        {"smoothing_lambda": 0.7, "side": "right"},
        {"smoothing_lambda": 0.7, "unit": "step"},
        {"smoothing_lambda": 0.7, "earlier_share": 0.5, "keep_positions": True},
        {"smoothing_lambda": 0.7, "right_first": 2, "keep_positions": True},
    ],
    ids=["left", "kept positions", "right", "steps", "some lose fewer", "right first"],
)
def test_rows_and_batches_are_what_the_controller_hands_to_the_engine(tmp_path: Path, removal: dict[str, Any]) -> None:
    config = tiny_config(tmp_path, removal=removal, engine={"micro_batch_tokens": 60})
    told = make_preview(config, num_rows=56, num_ranks=1, stages=None)
    examples, _ = load_data(config, build_tokenizer(config.model))
    for stage in told.stages:
        controller = StageController(config, examples, EngineStandIn())  # type: ignore[arg-type]
        controller.restore(stage.stage.first_step, {"reset_step": None, "adaptive": None})
        assert controller.stage == stage.stage
        step = next(next(controller.stages())[1])
        assert stage.ranks == [
            [
                MicroBatchShape(len(batch.input_ids), batch.input_ids.shape[1], int(batch.attention_mask.sum()))
                for batch in step.micro_batches
            ]
        ]
        trained = [
            [
                (token_id, position, label != IGNORE_INDEX)
                for token_id, position, label, real in zip(*row, strict=True)
                if real
            ]
            for batch in step.micro_batches
            for row in zip(
                batch.input_ids.tolist(),
                batch.position_ids.tolist(),
                batch.labels.tolist(),
                batch.attention_mask.tolist(),
                strict=True,
            )
        ]
        by_number = {row.row_number: row for row in stage.rows}
        previewed = [
            [(token.id, token.position, token.has_loss) for token in by_number[number].tokens if not token.is_removed]
            for number in step.row_numbers
        ]
        assert sorted(previewed) == sorted(trained)


def test_rows_that_training_would_refuse_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"engine.micro_batch_tokens \(8\) must hold the longest training row"):
        preview(tmp_path, engine={"micro_batch_tokens": 8})


def test_a_tokenizer_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError) as error:
        preview(tmp_path, model={"name_or_path": str(tmp_path)})
    message = str(error.value)
    # Transformers makes a tokenizer without a word of such a folder.
    assert message.startswith(
        f"model.name_or_path ({tmp_path}): no tokenizer could be loaded (its vocabulary is empty)"
    )
    assert "A preview needs no weights, but the tokenizer; --model.tokenizer names another" in message
