"""What a plan says of stages, rows, totals and cards, by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig

from pipeline.config import AdaptiveConfig, Config, RemovalConfig, ScheduleConfig
from pipeline.config.checks import check
from pipeline.errors import UserError
from pipeline.plan.advice import GIB, advise, needs
from pipeline.plan.architecture import architecture_of
from pipeline.plan.from_data import planner_from_data
from pipeline.plan.from_lengths import planner_from_lengths
from pipeline.plan.lengths import RowLengths, parse_lengths
from pipeline.plan.measurements import Measurements
from pipeline.plan.plan import make_plan
from pipeline.plan.planner import Planner, Rows
from pipeline.plan.stages import plan_stages, steps_of_course
from pipeline.plan.store import Store
from tests.tiny import tiny_config

pytestmark = pytest.mark.usefixtures("own_home")

# Two rows: CoT of 3 and 5 tokens, in steps of 1 + 2 and 2 + 2 + 1; two tokens of separator before the answer.
ROWS = RowLengths(
    prompt=np.array([10, 20]),
    cot=np.array([3, 5]),
    answer=np.array([2, 2]),
    steps=np.array([1, 2, 2, 2, 1]),
    num_steps=np.array([2, 3]),
    second_separator=2,
    keep_second_separator=True,
)


def planner(lengths: str = "1000,20,10,4", **changes: object) -> tuple[Config, Planner]:
    """Return a recipe of a small model and its planner."""
    fields = {"model_type": "gpt2", "n_layer": 4, "n_embd": 256, "n_head": 4, "n_positions": 512, "vocab_size": 2000}
    config = Config()
    config = replace(config, model=replace(config.model, from_scratch=fields, tokenizer="words", **changes))
    return config, planner_from_lengths(config, lengths)


# Rows


@pytest.mark.parametrize(
    ("num_removed", "removes_all", "side", "unit", "left"),
    [
        (0, False, "left", "token", [3, 5]),
        (4, False, "right", "token", [0, 1]),
        (1, False, "left", "step", [2, 3]),
        (1, False, "right", "step", [1, 4]),
        (2, False, "left", "step", [0, 1]),
        (2, False, "right", "step", [0, 2]),
        (9, False, "left", "step", [0, 0]),
        (1, True, "left", "token", [0, 0]),
    ],
)
def test_cot_left(num_removed: int, removes_all: bool, side: str, unit: str, left: list[int]) -> None:
    assert ROWS.cot_left(num_removed, removes_all, side, unit).tolist() == left  # type: ignore[arg-type]


def test_the_second_separator_may_go_with_the_cot() -> None:
    left = np.array([0, 1])
    assert ROWS.labels(left).tolist() == [4, 5]
    assert replace(ROWS, keep_second_separator=False).labels(left).tolist() == [2, 5]


def test_lengths_of_tokenised_rows(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    lengths = planner_from_data(config, None).rows.lengths
    assert len(lengths.prompt) == 56
    assert lengths.steps.sum() == lengths.cot.sum()
    # `a b * c d =` and eight symbols and separators of the tiny task, one token each
    assert set(lengths.prompt) == {6}
    assert (lengths.prompt + lengths.labels(lengths.cot)).max() <= 40


@pytest.mark.parametrize(
    "text", ["1,2,3", "1,2,3,4,5", "a,2,3,4", "0,2,3,4", "1,0,3,4", "1,2,3,0", "1,2,-3,4", "1.5,2,3,4", ""]
)
def test_lengths_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="--lengths .* must be ROWS,QUESTION,COT,ANSWER"):
        parse_lengths(text)


# Stages


def test_stages_of_a_fixed_schedule() -> None:
    schedule = ScheduleConfig(removed_per_epoch=2, hold_epochs=1, final_epochs=3, remove_all_beyond=4)
    stages = plan_stages(schedule, RemovalConfig(), ROWS, steps_per_epoch=10, resets=True)
    # A stage of 5 steps each; the held stage 0 is one with what follows it; the last has 3 epochs.
    assert [stage.num_removed for stage in stages] == [0, 1, 2, 3, 4]
    assert [stage.min_steps for stage in stages] == [15, 5, 5, 5, 30]
    assert [stage.max_steps for stage in stages] == [15, 5, 5, 5, 30]
    assert [stage.resets_optimizer for stage in stages] == [False, True, True, True, True]
    assert [stage.share_with_cot for stage in stages] == [1, 1, 1, 0.5, 0]
    first, last = stages[0], stages[-1]
    assert (first.mean_tokens, first.max_tokens, first.mean_labels, first.max_labels) == (23, 29, 8, 9)
    assert first.mean_square == (17**2 + 29**2) / 2
    assert (last.mean_tokens, last.max_tokens, last.removes_all) == (19, 24, True)


def test_no_reset_where_the_recipe_has_none() -> None:
    stages = plan_stages(ScheduleConfig(), RemovalConfig(), ROWS, steps_per_epoch=10, resets=False)
    assert not any(stage.resets_optimizer for stage in stages)


def test_an_adaptive_schedule_is_a_range() -> None:
    adaptive = AdaptiveConfig(min_steps=10, max_steps=100, window=20, removed_per_stage=2)
    schedule = ScheduleConfig(kind="adaptive", final_epochs=1, adaptive=adaptive)
    stages = plan_stages(schedule, RemovalConfig(), ROWS, steps_per_epoch=30, resets=True)
    assert [stage.num_removed for stage in stages] == [0, 2, 4, 5]
    # The running mean over 20 steps must be full before a stage can end.
    assert [(stage.min_steps, stage.max_steps) for stage in stages] == [(20, 100)] * 3 + [(30, 30)]
    assert steps_of_course(stages, slowest=False, max_steps=None) == [20, 20, 20, 30]
    assert steps_of_course(stages, slowest=True, max_steps=None) == [100, 100, 100, 30]
    assert steps_of_course(stages, slowest=True, max_steps=250) == [100, 100, 50, 0]


def test_an_adaptive_schedule_stands_at_its_stops() -> None:
    adaptive = AdaptiveConfig(min_steps=10, max_steps=100, window=20, stops=[1, 3])
    schedule = ScheduleConfig(kind="adaptive", final_epochs=1, adaptive=adaptive)
    stages = plan_stages(schedule, RemovalConfig(), ROWS, steps_per_epoch=30, resets=True)
    assert [stage.num_removed for stage in stages] == [0, 1, 3, 5]


def test_rows_that_lose_fewer_units_are_planned_for() -> None:
    adaptive = AdaptiveConfig(min_steps=10, max_steps=100, window=20, stops=[1, 3])
    schedule = ScheduleConfig(kind="adaptive", final_epochs=1, adaptive=adaptive)
    removal = RemovalConfig(earlier_share=0.5, earlier_from=5)
    *before, last = plan_stages(schedule, removal, ROWS, steps_per_epoch=30, resets=True)
    assert [stage.max_tokens for stage in before] == [29, 28, 26]
    # At last half of the rows lose all: 14 and 24 tokens. A quarter lose 4 (14 and 25), a quarter 3 (14 and 26).
    assert (last.mean_tokens, last.max_tokens, last.share_with_cot) == (19.375, 26, 0.25)
    assert (last.mean_labels, last.max_labels) == (4.375, 6)
    assert last.mean_square == (14**2 + 24**2) / 4 + (14**2 + 25**2) / 8 + (14**2 + 26**2) / 8


# Totals


def test_totals_of_rows_that_are_alike() -> None:
    config, planned = planner("100,20,10,4")
    schedule = ScheduleConfig(kind="explicit_cot", final_epochs=2)
    config = replace(config, schedule=schedule, optim=replace(config.optim, global_batch_size=32))
    plan = make_plan(config, planned, num_gpus=2, tflops=10, mfu=0.5)
    assert (plan.steps_per_epoch, plan.fastest.steps) == (4, 8)
    assert plan.fastest == plan.slowest
    assert plan.fastest.tokens == pytest.approx(2 * 100 * 34)  # the epoch's last batch is smaller
    assert plan.fastest.label_tokens == pytest.approx(2 * 100 * 14)
    matrices, head = 4 * 12 * 256**2, 2000 * 256
    attention = 12 * 4 * 256 * 34
    assert plan.fastest.flops == pytest.approx(200 * (34 * (6 * matrices + attention) + 14 * 6 * head))
    assert plan.fastest.seconds == pytest.approx(plan.fastest.flops / (2 * 10e12 * 0.5))


@pytest.mark.parametrize(("num_gpus", "at_work"), [(8, 8), (24, 16), (64, 32)])
def test_gpus_without_rows_save_no_time(num_gpus: int, at_work: int) -> None:
    config, planned = planner("100,20,10,4")
    config = replace(config, optim=replace(config.optim, global_batch_size=32))
    plan = make_plan(config, planned, num_gpus, tflops=10, mfu=0.5)
    assert (plan.num_gpus, plan.gpus_at_work) == (num_gpus, at_work)
    assert plan.fastest.seconds == pytest.approx(plan.fastest.flops / (at_work * 10e12 * 0.5))


def test_a_sample_stands_for_more_rows(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    few, many = (make_plan(config, planner_from_data(config, number), num_gpus=1) for number in (None, 5600))
    assert (few.num_rows, many.num_rows) == (56, 5600)
    assert many.fastest.steps == pytest.approx(100 * few.fastest.steps, rel=0.1)  # a pace is a whole number of steps
    assert many.fastest.tokens / many.fastest.steps == pytest.approx(few.fastest.tokens / few.fastest.steps, rel=0.1)
    assert many.phases == few.phases


# Memory and cards


def test_the_largest_micro_batch() -> None:
    config, planned = planner("1000,20,10,4")  # rows of 34 tokens, 32 in a step
    config = replace(config, engine=replace(config.engine, micro_batch_tokens=34 * 5 + 33))
    largest = planned.largest_micro_batch(config, num_gpus=2)
    assert (largest.num_rows, largest.row_length, largest.num_labels, largest.per_step) == (4, 34, 14, 4)
    config = replace(config, engine=replace(config.engine, micro_batch_tokens=33))
    with pytest.raises(UserError, match=r"engine.micro_batch_tokens \(33\) must hold the longest training row \(34"):
        planned.largest_micro_batch(config, num_gpus=2)


def test_too_few_positions_are_told() -> None:
    config, planned = planner("10,500,10,4")
    with pytest.raises(UserError, match="longest row takes 514 positions, the model has 512"):
        planned.memory(config, 1)
    config, planned = planner("10,500,10,4", num_positions=600)
    assert planned.memory(config, 1)


def test_advice_is_enough_and_named_as_typed() -> None:
    """The card is chosen so that the plain recipe is just too large for it."""
    config, planned = planner("1000,100,50,10")
    config = replace(config, evaluation=replace(config.evaluation, batch_size=4))
    peak = max(memory.total for memory in planned.memory(config, 1).values())
    gib = needs(peak) / GIB - 0.05
    card = advise(config, planned, 1, gib)  # type: ignore[arg-type]
    assert not card.fits and card.largest_micro_batch_tokens is None
    assert card.advice
    changes = {
        "--engine.micro_batch_tokens": lambda c, v: replace(c, engine=replace(c.engine, micro_batch_tokens=int(v))),
        "--model.gradient_checkpointing": lambda c, v: replace(c, model=replace(c.model, gradient_checkpointing=True)),
        "--engine.deepspeed": lambda c, v: replace(c, engine=replace(c.engine, deepspeed=v)),
        "--engine.precision": lambda c, v: replace(c, engine=replace(c.engine, precision=v)),
        "--lora.rank": lambda c, v: replace(c, lora=replace(c.lora, rank=int(v))),
    }
    for advice in card.advice:
        words = advice.settings.split()
        changed, gpus = config, 1
        for option, value in zip(words[::2], words[1::2], strict=True):
            if option == "--gpus":
                gpus = int(value)
            else:
                changed = changes[option](changed, value)
        assert check(changed) == check(config)
        exact = max(memory.total for memory in planned.memory(changed, gpus).values())
        assert needs(exact) <= gib * GIB
        assert exact <= advice.peak_bytes <= 1.1 * exact


def test_room_for_a_larger_micro_batch_is_found() -> None:
    config, planned = planner("1000,100,50,10")
    config = replace(
        config,
        engine=replace(config.engine, micro_batch_tokens=320),
        optim=replace(config.optim, global_batch_size=256),
        evaluation=replace(config.evaluation, batch_size=1),
    )
    memory = planned.memory(config, 1)
    gib = (needs(max(part.total for part in memory.values())) + 0.4 * GIB) / GIB
    tokens = advise(config, planned, 1, gib).largest_micro_batch_tokens  # type: ignore[arg-type]
    assert tokens is not None and 320 < tokens < 256 * 160

    def needed(number: int) -> int:
        changed = replace(config, engine=replace(config.engine, micro_batch_tokens=number))
        return needs(max(part.total for part in planned.memory(changed, 1).values()))

    assert needed(tokens) <= gib * GIB < needed(2 * tokens)


def test_a_plan_of_lengths_needs_a_vocabulary() -> None:
    config = Config()
    config = replace(config, model=replace(config.model, from_scratch={"model_type": "gpt2"}, tokenizer="some"))
    with pytest.raises(UserError, match="add --model.from_scratch.vocab_size NUMBER"):
        planner_from_lengths(config, "10,5,5,5")
    config = replace(config, removal=RemovalConfig(unit="step"))
    with pytest.raises(UserError, match=r"how long reasoning steps are \(removal.unit step\)"):
        planner_from_lengths(config, "10,5,5,5")


def test_quantised_bases_and_zero3_are_refused() -> None:
    config = Config()
    rows = Rows(parse_lengths("100,10,10,5")[1], 100)
    planned = Planner(Measurements(architecture_of(AutoConfig.for_model("gpt2")), Store(None)), rows)
    config = replace(
        config,
        model=replace(config.model, name_or_path="gpt2", quantization="nf4"),
        lora=replace(config.lora, rank=4),
        engine=replace(config.engine, deepspeed="ds_configs/zero3.json"),
    )
    with pytest.raises(UserError, match="shares out the weights"):
        planned.memory(config, 1)
