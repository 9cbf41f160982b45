"""Whole runs on two ranks against the same run on one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.comparison import compare_models
from pipeline.engine import init_distributed
from tests.distributed import jobs
from tests.distributed.pool import RankPool
from tests.tiny import tiny_config


def _figures(rows: list[dict[str, Any]], kind: str) -> list[tuple[float, ...]]:
    names = {"train": ("step", "num_removed", "loss"), "evaluation": ("step", "accuracy", "num_examples")}[kind]
    return [tuple(row[name] for name in names) for row in rows if row["kind"] == kind]


def _texts(run_dir: str) -> list[str]:
    return [json.loads(line)["text"] for line in (Path(run_dir) / "samples.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("ds_config", ["zero0", "zero2", "zero3", "zero3_offload"])
def test_two_ranks_train_as_one_over_all_stages(two_ranks: RankPool, tmp_path: Path, ds_config: str) -> None:
    init_distributed()
    runs = {}
    for name, engine in {"one": "zero0", "two": ds_config}.items():
        (tmp_path / name).mkdir()
        runs[name] = tiny_config(tmp_path / name, engine__deepspeed=f"ds_configs/{engine}.json")
    one = jobs.run_training(runs["one"], False)
    two = two_ranks.run(jobs.run_training, runs["two"], False)[0]
    expected, measured = _figures(one, "train"), _figures(two, "train")
    assert len({num_removed for _, num_removed, _ in expected}) == 5
    assert [row[:2] for row in measured] == [row[:2] for row in expected]
    assert [row[2] for row in measured] == pytest.approx([row[2] for row in expected], abs=1e-5)
    assert all(row[2] == 7 for row in _figures(two, "evaluation"))  # an odd number, each counted once
    assert _figures(two, "evaluation") == _figures(one, "evaluation")
    texts = [_texts(runs[name].run.output_dir) for name in ("one", "two")]
    assert texts[0] == texts[1] and len(set(texts[0])) > 7


def test_a_model_loaded_in_parts_has_the_weights_it_was_saved_with(two_ranks: RankPool, tmp_path: Path) -> None:
    init_distributed()
    first = tiny_config(tmp_path, schedule__kind="explicit_cot", schedule__max_steps=3)
    jobs.run_training(first, False)
    losses = []
    for name in ("zero0", "zero3"):
        (tmp_path / name).mkdir()
        config = tiny_config(
            tmp_path / name,
            model__name_or_path=str(tmp_path / "run" / "model"),
            model__from_scratch=None,
            engine__deepspeed=f"ds_configs/{name}.json",
            schedule__max_steps=2,
        )
        rows = two_ranks.run(jobs.run_training, config, False)[0]
        losses.append([row["loss"] for row in rows if row["kind"] == "train"])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_trained_in_parts_is_saved_whole(two_ranks: RankPool, tmp_path: Path, precision: str) -> None:
    config = tiny_config(tmp_path, engine__deepspeed="ds_configs/zero3.json", engine__precision=precision)
    rows = two_ranks.run(jobs.run_training, config, False)[0]
    best = max(row["accuracy"] for row in rows if row["kind"] == "evaluation" and row["num_removed"] == 4)
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    last = [row for row in samples if row["step"] == rows[-1]["step"]]
    folder = tmp_path / "run" / "model"
    report = compare_models([folder], config.data, num_removed=None, num_examples=7, num_timed=1, batch_size=7)[0]
    assert report.evaluation.accuracy == best
    assert [sample.text for sample in report.evaluation.samples] == [row["text"] for row in last]


def test_the_global_batch_does_not_depend_on_the_ranks(two_ranks: RankPool, tmp_path: Path) -> None:
    init_distributed()
    config = tiny_config(tmp_path)
    first, second = two_ranks.run(jobs.rows_by_step, config)
    together = [sorted(a + b) for a, b in zip(first, second, strict=True)]
    assert together == [sorted(rows) for rows in jobs.rows_by_step(config)]
    assert all(first) and all(second)  # both ranks had work at each step


@pytest.mark.parametrize(("batch_size", "num_idle"), [(1, 1), (2, 0)])
def test_ranks_that_no_step_has_a_row_for_are_told(
    two_ranks: RankPool, tmp_path: Path, batch_size: int, num_idle: int
) -> None:
    config = tiny_config(tmp_path, optim__global_batch_size=batch_size, schedule__max_steps=2)
    told = two_ranks.run(jobs.warnings_of_training, config)[0]
    rule = f"optim.global_batch_size ({batch_size}): a step has no row for {num_idle} of 2 ranks; start fewer"
    assert any(message.startswith(rule) for message in told) == (num_idle > 0)


def test_ranks_agree_on_the_stage_of_an_adaptive_run(two_ranks: RankPool, tmp_path: Path) -> None:
    adaptive = {"loss_threshold": 6.0, "window": 2, "min_steps": 2, "max_steps": 4}
    config = tiny_config(tmp_path, schedule__kind="adaptive", schedule__adaptive=adaptive, schedule__final_epochs=1)
    first, second = two_ranks.run(jobs.stages_by_step, config)
    assert first == second
    assert first[-1][1] == 4 and len({stage for stage, _ in first}) == 5


def test_rank_zero_decides_when_ranks_see_different_losses(two_ranks: RankPool, tmp_path: Path) -> None:
    adaptive = {"loss_threshold": 1.0, "window": 1, "min_steps": 1, "max_steps": 9}
    config = tiny_config(tmp_path, schedule__kind="adaptive", schedule__adaptive=adaptive)
    assert two_ranks.run(jobs.stage_after_different_losses, config) == [1, 1]


ADAPTIVE = {"loss_threshold": 0.1, "window": 2, "min_steps": 2, "max_steps": 3}


@pytest.mark.parametrize(
    ("ds_config", "overrides"),
    [
        ("zero0", {}),
        ("zero1", {}),
        ("zero2", {}),
        ("zero3", {}),
        ("zero3_offload", {}),
        ("zero2", {"engine__precision": "bf16"}),
        ("zero0", {"schedule__kind": "adaptive", "schedule__adaptive": ADAPTIVE}),
        pytest.param("zero3", {"schedule__kind": "adaptive", "schedule__adaptive": ADAPTIVE}, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one(
    two_ranks: RankPool, tmp_path: Path, ds_config: str, overrides: dict[str, Any]
) -> None:
    config = tiny_config(
        tmp_path,
        engine__deepspeed=f"ds_configs/{ds_config}.json",
        run__checkpoint_every=1,
        run__keep_checkpoints=100,
        **overrides,
    )
    whole = two_ranks.run(jobs.run_training, config, False)[0]
    checkpoints = tmp_path / "run" / "checkpoints"
    assert len(list(checkpoints.glob("step_*"))) == len(_figures(whole, "train"))
    # As if cut before the next checkpoint. Fixed schedule: 9 is in mid-stage, one step after a reset, 6 at a boundary.
    for step in (9, 6):
        for path in checkpoints.glob("step_*"):
            if path.name > f"step_{step:08d}":
                shutil.rmtree(path)
        resumed = two_ranks.run(jobs.run_training, config, True)[0]
        for kind in ("train", "evaluation"):
            assert _figures(resumed, kind) == _figures(whole, kind)


def test_a_fault_that_rank_zero_finds_stops_all_ranks(two_ranks: RankPool, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, schedule__max_steps=2)
    two_ranks.run(jobs.run_training, config, False)
    (tmp_path / "run" / "recipe.yaml").unlink()
    with pytest.raises(AssertionError) as error:
        two_ranks.run(jobs.run_training, config, True)
    assert str(error.value).count("recipe.yaml: cannot be read") == 2  # each rank its own, and none is left waiting
