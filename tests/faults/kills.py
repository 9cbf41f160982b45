"""Kills a training with SIGKILL, over and over, and checks that nothing is ever lost: `python -m tests.faults.kills`.

Half of the kills fall at a random moment, half while a checkpoint is being written. After each one, every checkpoint
under its name must be whole and `latest` must point at one; the training then goes on with --resume. When it reaches
its end, its losses must be those of a run that nobody disturbed, bit for bit, each step once. Then it begins again.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from pipeline.manifest import fault_of
from tests.forked import FORKS
from tests.tiny import variables_of_ranks, write_recipe

LONGEST_LIFE = 3.0  # seconds of training before a kill at a random moment
LONGEST_SAVE = 0.06  # seconds from the beginning of a save to a kill inside it
SECONDS_TO_BEGIN = 120


@dataclass
class Tally:
    """What happened."""

    ranks: int
    kills: int = 0
    kills_inside_a_save: int = 0
    kills_before_the_first_checkpoint: int = 0
    runs_finished: int = 0
    checkpoints_checked: int = 0
    damaged_checkpoints: int = 0
    steps_compared: int = 0
    steps_that_differ: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost."""
        return not (self.damaged_checkpoints or self.steps_that_differ)


def train_as_rank(recipe: str, log: str, resume: bool, variables: dict[str, str]) -> None:
    """Be one rank of a training, in a process of its own."""
    os.environ.update(variables)
    with open(log, "a", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from pipeline.config import load_config
    from pipeline.train import train

    train(load_config(Path(recipe)), resume=resume)


def start(recipe: Path, num_ranks: int, resume: bool) -> list[BaseProcess]:
    """Start every rank of a training."""
    log = str(recipe.with_name("log.txt"))
    ranks = [
        FORKS.Process(target=train_as_rank, args=(str(recipe), log, resume, variables))
        for variables in variables_of_ranks(num_ranks)
    ]
    for rank in ranks:
        rank.start()
    return ranks


def curve(run_dir: Path) -> list[tuple[int, float, float]]:
    """Return step, loss and gradient norm of every training row."""
    rows = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows if row["kind"] == "train"]


def is_saving(run_dir: Path) -> bool:
    """Return whether a checkpoint is being written, or was when the run was killed."""
    return any((run_dir / "checkpoints").glob(".step_*.incomplete"))


def wait_until(condition: Callable[[], bool], ranks: list[BaseProcess], seconds: float) -> bool:
    """Wait for a condition, as long as the first rank lives; return whether it came true."""
    end = time.monotonic() + seconds
    while ranks[0].is_alive() and time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.002)
    return False


def kill_once(recipe: Path, run_dir: Path, num_ranks: int, chance: random.Random | None, tally: Tally) -> bool:
    """Let the training live for a while and kill it, or, with no chance, let it live; return whether it has ended."""
    metrics = run_dir / "metrics.jsonl"
    before = metrics.stat().st_mtime_ns if metrics.exists() else 0
    ranks = start(recipe, num_ranks, resume=True)
    victims: list[BaseProcess] = []
    if chance is not None:
        if chance.random() < 0.5:  # at any moment, while it starts too
            wait_until(lambda: False, ranks, chance.uniform(0, LONGEST_LIFE))
        elif wait_until(lambda: metrics.exists() and metrics.stat().st_mtime_ns > before, ranks, SECONDS_TO_BEGIN):
            wait_until(lambda: False, ranks, chance.uniform(0, LONGEST_LIFE / 3))
            if wait_until(lambda: is_saving(run_dir), ranks, SECONDS_TO_BEGIN):
                time.sleep(chance.uniform(0, LONGEST_SAVE))
        victims = ranks if chance.random() < 0.5 else [chance.choice(ranks)]  # a node, or one process of it
    for rank in victims:
        rank.kill()
    for rank in ranks:
        rank.join(SECONDS_TO_BEGIN)
        assert not rank.is_alive(), "a rank outlived the others"
    if any(rank.exitcode == -signal.SIGKILL for rank in victims):
        tally.kills += 1
        tally.kills_inside_a_save += is_saving(run_dir)
        return False
    assert all(rank.exitcode == 0 for rank in ranks), recipe.with_name("log.txt").read_text()[-3000:]
    return True


def check(run_dir: Path, tally: Tally) -> None:
    """Look at what a kill has left."""
    checkpoints = sorted((run_dir / "checkpoints").glob("step_*"))
    latest = run_dir / "checkpoints" / "latest"
    tally.kills_before_the_first_checkpoint += not checkpoints
    for folder in [*checkpoints, *([latest.resolve()] if latest.is_symlink() else [])]:
        tally.checkpoints_checked += 1
        if (fault := fault_of(folder)) is not None:
            tally.damaged_checkpoints += 1
            print(f"damaged: {folder}: {fault}", file=sys.stderr)


def kill_often(folder: Path, num_kills: int, num_ranks: int, seed: int, num_inside_a_save: int = 0) -> Tally:
    """Kill a training until it has happened often enough, inside a save too; return what came of it."""
    zero = "zero0" if num_ranks == 1 else "zero2"
    settings = {
        "schedule__final_epochs": 20,
        "run__checkpoint_every": 3,
        "run__keep_checkpoints": 3,
        "engine__deepspeed": f"ds_configs/{zero}.json",
        "engine__rank_timeout": 20,
    }
    (folder / "undisturbed").mkdir(parents=True)
    for rank in (ranks := start(write_recipe(folder / "undisturbed", **settings), num_ranks, resume=False)):
        rank.join(SECONDS_TO_BEGIN)
    assert all(rank.exitcode == 0 for rank in ranks), (folder / "undisturbed" / "log.txt").read_text()
    expected = curve(folder / "undisturbed" / "run")

    (folder / "killed").mkdir()
    recipe, run_dir = write_recipe(folder / "killed", **settings), folder / "killed" / "run"
    chance, tally = random.Random(seed), Tally(num_ranks)
    while True:
        kills = tally.kills < num_kills or tally.kills_inside_a_save < num_inside_a_save
        if not kills and tally.runs_finished and not run_dir.exists():
            return tally
        assert tally.kills < 10 * num_kills, tally  # saves are not met: they may be too short
        is_over = kill_once(recipe, run_dir, num_ranks, chance if kills else None, tally)
        check(run_dir, tally)
        if is_over:
            found = curve(run_dir)
            tally.runs_finished += 1
            tally.steps_compared += len(expected)
            tally.steps_that_differ += sum(a != b for a, b in zip(found, expected, strict=False))
            tally.steps_that_differ += abs(len(found) - len(expected))
            shutil.rmtree(run_dir)


def main() -> int:
    """Kill, print the tally as JSON; exit code 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--ranks", type=int, default=1, choices=(1, 2))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = kill_often(Path(folder), arguments.kills, arguments.ranks, arguments.seed)
    print(json.dumps(asdict(tally)))
    return 0 if tally.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
