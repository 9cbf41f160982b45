"""What a run of several ranks does where something goes wrong on one of them, or their number changes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config
from pipeline.manifest import fault_of
from pipeline.train import train
from tests.distributed import jobs
from tests.distributed.pool import RankPool
from tests.tiny import tiny_config

ZERO_STAGES = ("zero0", "zero1", "zero2", "zero3")
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}


def losses(rows: list[dict[str, Any]]) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}


def rows_of(config: Config) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(config.run.output_dir) / "metrics.jsonl").read_text().splitlines()]


def trained_on_two(ranks: RankPool, folder: Path, **overrides: Any) -> tuple[Config, dict[int, float]]:
    """Train on two ranks, with a checkpoint at each step; return the recipe and the losses."""
    config = tiny_config(folder, run__checkpoint_every=1, run__keep_checkpoints=100, **overrides)
    return config, losses(ranks.run(jobs.run_training, config, False)[0])


def cut_after(config: Config, step: int) -> None:
    for path in (Path(config.run.output_dir) / "checkpoints").glob("step_*"):
        if path.name > f"step_{step:08d}":
            shutil.rmtree(path)


def differ_by_at_most(tolerance: float, whole: dict[int, float], found: dict[int, float]) -> None:
    assert found.keys() == whole.keys()
    largest = max(abs(found[step] - whole[step]) for step in whole)
    print(f"largest difference of a loss: {largest:.1e}")
    assert largest <= tolerance


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("ds_config", ZERO_STAGES)
def test_a_run_of_two_ranks_goes_on_with_one_and_back(
    two_ranks: RankPool, tmp_path: Path, ds_config: str, precision: str
) -> None:
    settings = {"engine__deepspeed": f"ds_configs/{ds_config}.json", "engine__precision": precision}
    config, whole = trained_on_two(two_ranks, tmp_path, **settings)
    cut_after(config, 9)  # one step after a reset
    train(config, resume=True)
    differ_by_at_most(TOLERANCE[precision], whole, losses(rows_of(config)))
    assert all(losses(rows_of(config))[step] == whole[step] for step in range(1, 10))
    cut_after(config, 12)  # saved by one rank, in mid-stage
    differ_by_at_most(TOLERANCE[precision], whole, losses(two_ranks.run(jobs.run_training, config, True)[0]))


@pytest.mark.slow
@pytest.mark.parametrize("step", [6, 7, 9])  # a boundary, one step after a reset, mid-stage
@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("ds_config", ZERO_STAGES)
def test_a_run_of_two_ranks_goes_on_with_four(
    two_ranks: RankPool, four_ranks: RankPool, tmp_path: Path, ds_config: str, precision: str, step: int
) -> None:
    settings = {"engine__deepspeed": f"ds_configs/{ds_config}.json", "engine__precision": precision}
    config, whole = trained_on_two(two_ranks, tmp_path, **settings)
    cut_after(config, step)
    differ_by_at_most(TOLERANCE[precision], whole, losses(four_ranks.run(jobs.run_training, config, True)[0]))


def test_eight_bit_moments_are_not_shared_out_anew(two_ranks: RankPool, tmp_path: Path) -> None:
    settings = {"engine__deepspeed": "ds_configs/zero2.json", "optim__optimizer": "paged_adamw_8bit"}
    config, _ = trained_on_two(two_ranks, tmp_path, schedule__max_steps=2, **settings)
    with pytest.raises(ValueError, match="saved by 2 ranks, cannot be shared out among 1; start the run with 2"):
        train(config, resume=True)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("ds_config", ZERO_STAGES)
def test_a_step_without_a_number_changes_nothing(
    two_ranks: RankPool, tmp_path: Path, ds_config: str, precision: str
) -> None:
    config = tiny_config(
        tmp_path, engine__deepspeed=f"ds_configs/{ds_config}.json", engine__precision=precision, schedule__max_steps=8
    )
    for result in two_ranks.run(jobs.run_with_faulty_steps, config, [3, 6]):
        assert result["unchanged"] == [True, True] and not result["fault"]
        nonfinite = [row for row in result["rows"] if row["kind"] == "nonfinite"]
        assert [(row["step"], row["num_removed"], len(row["rows"]), row["in_a_row"]) for row in nonfinite] == [
            (3, 0, 8, 1),
            (6, 1, 8, 1),
        ]
        assert [step for step, loss in losses(result["rows"]).items() if loss is None] == [3, 6]


def test_too_many_steps_without_a_number_end_the_run_and_name_the_rows(two_ranks: RankPool, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, optim__max_nonfinite=2)
    results = two_ranks.run(jobs.run_with_faulty_steps, config, [3, 4, 5])
    # Of the first rank, which writes them; the other may have looked before it had.
    rows = [row["rows"] for row in results[0]["rows"] if row["kind"] == "nonfinite"]
    assert len(rows) == 2
    for result in results:
        assert "step 4: loss nan" in result["fault"] and "2 steps in a row" in result["fault"]
        assert str(rows[1]) in result["fault"]


@pytest.mark.parametrize(
    "ds_config", ["zero0", *(pytest.param(f"zero{i}", marks=pytest.mark.slow) for i in (1, 2)), "zero3"]
)
def test_a_run_rolls_back_to_its_newest_checkpoint(two_ranks: RankPool, tmp_path: Path, ds_config: str) -> None:
    """From the checkpoint of step 4 on, the steps 5 and 6 count for nothing; the reset before step 7 finds that too."""
    settings = {"engine__deepspeed": f"ds_configs/{ds_config}.json", "optim__on_nonfinite": "roll_back"}
    (tmp_path / "back").mkdir()
    (tmp_path / "skip").mkdir()
    back = tiny_config(tmp_path / "back", **settings)
    rows = two_ranks.run(jobs.run_with_faulty_steps, back, [6])[0]["rows"]
    assert [row["rolled_back_to"] for row in rows if row["kind"] == "nonfinite"] == [4]
    # The same, had steps 5 and 6 both been left out.
    skip = tiny_config(tmp_path / "skip", **{**settings, "optim__on_nonfinite": "skip"})
    expected = losses(two_ranks.run(jobs.run_with_faulty_steps, skip, [5, 6])[0]["rows"])
    assert [losses(rows)[step] for step in range(7, 15)] == [expected[step] for step in range(7, 15)]


@pytest.mark.parametrize("asked_rank", [0, 1])
def test_a_signal_to_one_rank_stops_all_of_them(two_ranks: RankPool, tmp_path: Path, asked_rank: int) -> None:
    said = two_ranks.run(jobs.run_until_asked, tiny_config(tmp_path), asked_rank, 3)
    assert [text.startswith("stopped at step 3") for text in said] == [True, True]
    assert "SIGUSR1" in said[asked_rank] and "another rank" in said[1 - asked_rank]
    assert fault_of(tmp_path / "run" / "checkpoints" / "step_00000003") is None


@pytest.mark.parametrize("ds_config", [pytest.param("zero0", marks=pytest.mark.slow), "zero2", "zero3"])
@pytest.mark.parametrize("full_rank", [0, 1])
def test_a_full_disk_of_one_rank_ends_all_and_loses_nothing(
    two_ranks: RankPool, tmp_path: Path, full_rank: int, ds_config: str
) -> None:
    config = tiny_config(tmp_path, engine__deepspeed=f"ds_configs/{ds_config}.json", run__checkpoint_every=1)
    said = two_ranks.run(jobs.save_with_a_full_disk, config, full_rank)
    if ds_config == "zero0" and full_rank == 1:
        assert said == ["", ""]  # without ZeRO, rank 0 alone writes
        return
    assert all(f"rank {full_rank}: " in text and "No space left on device" in text for text in said)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step_00000001"]
    assert fault_of(checkpoints / "step_00000001") is None
    two_ranks.run(jobs.run_training, config, True)
