"""Learning rate and moments step by step: over resets at boundaries, without them, and over a rollback beside one."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.batching import StepBatch
from pipeline.config import Config
from pipeline.engine import Engine, StepMetrics
from pipeline.train import train
from tests.tiny import tiny_config


class Begin(NamedTuple):
    """A step as it begins."""

    learning_rate: float
    moment_norms: tuple[float, float]


def trained(config: Config, faulty: tuple[int, ...] = ()) -> tuple[list[Begin], list[dict[str, Any]]]:
    """Train; return how each step began, and the run's metrics.

    Args:
        config: The recipe.
        faulty: Steps, counted from 0, of which the engine says that their loss was no number.
    """
    begins = []
    really = Engine.train_step

    def train_step(self: Engine, batch: StepBatch, learning_rate: float) -> StepMetrics:
        begins.append(Begin(learning_rate, self.moment_norms()))
        metrics = really(self, batch, learning_rate)
        return replace(metrics, loss=math.nan) if batch.step in faulty else metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "train_step", train_step)
        train(config)
    lines = (Path(config.run.output_dir) / "metrics.jsonl").read_text().splitlines()
    return begins, [json.loads(line) for line in lines]


def test_each_stage_begins_with_zero_moments_and_a_warm_up(tmp_path: Path) -> None:
    # As tests/tiny.py has it, stages begin at steps 4, 6, 8 and 10, counted from 0.
    config = tiny_config(
        tmp_path, optim__lr=6e-3, optim__warmup_steps=3, optim__reset_warmup_steps=2, schedule__max_steps=8
    )
    begins, rows = trained(config)
    expected = [2e-3, 4e-3, 6e-3, 6e-3, 3e-3, 6e-3, 3e-3, 6e-3]
    assert [begin.learning_rate for begin in begins] == pytest.approx(expected, rel=1e-12)
    assert [row["lr"] for row in rows if row["kind"] == "train"] == [begin.learning_rate for begin in begins]
    assert [step for step, begin in enumerate(begins) if begin.moment_norms == (0, 0)] == [0, 4, 6]
    resets = [row for row in rows if row["kind"] == "reset"]
    assert [row["step"] for row in resets] == [5, 7]
    assert all(row["moment_norm"] > 0 and row["second_moment_norm"] > 0 for row in resets)  # of what went


def test_without_resets_the_moments_outlast_a_boundary(tmp_path: Path) -> None:
    begins, rows = trained(tiny_config(tmp_path, optim__reset_at_stage=False, schedule__max_steps=6))
    assert [row["num_removed"] for row in rows if row["kind"] == "train"] == [0, 0, 0, 0, 1, 1]
    assert not [row for row in rows if row["kind"] == "reset" or row.get("after_reset")]
    assert all(min(begin.moment_norms) > 0 for begin in begins[1:])


def test_a_rollback_takes_the_moments_of_its_checkpoint_unless_a_reset_came_after_it(tmp_path: Path) -> None:
    # One stage of 10 steps, then the next; checkpoints after 4, 8, 10, 12, 16 steps, the third just before the reset.
    config = tiny_config(
        tmp_path,
        schedule={"removed_per_epoch": 0.7, "max_steps": 19},
        optim__on_nonfinite="roll_back",
        run__checkpoint_every=4,
    )
    begins, rows = trained(config, faulty=(5, 11, 17))
    assert [row["step"] for row in rows if row["kind"] == "reset"] == [11]
    assert [row["rolled_back_to"] for row in rows if row["kind"] == "nonfinite"] == [4, 10, 16]
    moments = [begin.moment_norms for begin in begins]
    assert moments[6] == moments[4] != moments[5]
    assert moments[12] == moments[10] == (0, 0) != moments[11]
    assert moments[18] == moments[16] != moments[17]
    assert min(moments[4] + moments[16]) > 0
