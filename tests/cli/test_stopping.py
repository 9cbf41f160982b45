"""Real processes that are told to stop, die or hang: exit codes, what is said, and that nothing is left behind."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.manifest import fault_of
from tests.forked import Command
from tests.tiny import ROOT, free_port, shell_environment, variables_of_ranks, write_recipe

SECONDS_TO_BEGIN = 300  # beside other tests on a slow machine
SECONDS_TO_END = 60
TIMEOUT = 6  # of a silent rank
TACIT = ("tacit", "train")
# A rank that stands still in the middle of a step.
HANG = """
import sys, time
from pipeline.cli.main import main
from pipeline.engine import Engine
really = Engine.train_step
def train_step(self, batch, learning_rate):
    if batch.step == 5 and {hangs}:
        time.sleep(1000)
    return really(self, batch, learning_rate)
Engine.train_step = train_step
sys.exit(main(["train", *sys.argv[1:]]))
"""


class Run:
    """A training of some minutes in processes of its own."""

    def __init__(self, folder: Path, *commands: tuple[str, ...]) -> None:
        """Start the commands; several are the ranks of one run. One of `tacit` is forked, any other a program."""
        self.run_dir = folder / "run"
        self._log = folder / "log.txt"
        places = variables_of_ranks(len(commands)) if len(commands) > 1 else [{"MASTER_PORT": str(free_port())}]
        self.processes = [self._start(*command, **place) for command, place in zip(commands, places, strict=True)]

    def _start(self, program: str, *arguments: str, **variables: str) -> "Command | subprocess.Popen[bytes]":
        if program == "tacit":
            return Command(*arguments, stdout=self._log, stderr=self._log, **variables)
        environment = shell_environment(PYTHONPATH=str(ROOT), **variables)
        with self._log.open("a") as log:
            return subprocess.Popen(
                (program, *arguments), cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    @property
    def said(self) -> str:
        """What all processes have printed."""
        return self._log.read_text()

    def steps(self) -> list[int]:
        """Return the training steps recorded so far."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.run_dir / "metrics.jsonl").read_text().splitlines()
            with contextlib.suppress(ValueError):
                return [row["step"] for row in map(json.loads, lines) if row["kind"] == "train"]
        return []

    def wait_for_step(self, step: int) -> None:
        """Wait until a step is done."""
        end = time.monotonic() + SECONDS_TO_BEGIN
        while not (steps := self.steps()) or steps[-1] < step:
            assert time.monotonic() < end, self.said
            assert self.processes[0].poll() is None, self.said
            time.sleep(0.05)

    def descendants(self) -> list[psutil.Process]:
        """Return all processes of the run but those that were started here."""
        return [child for process in self.processes for child in psutil.Process(process.pid).children(recursive=True)]

    def exit_codes(self) -> list[int]:
        """Wait for the end of all."""
        return [process.wait(SECONDS_TO_END) for process in self.processes]


@pytest.fixture
def started() -> Iterator[list[Run]]:
    """Runs, of which nothing is left when the test ends."""
    runs: list[Run] = []
    yield runs
    for run in runs:
        for process in run.processes:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
                process.wait()


def long_recipe(folder: Path, **overrides: object) -> Path:
    seldom = {"every_steps": 1000, "num_examples": 4}
    return write_recipe(folder, schedule__final_epochs=400, run__checkpoint_every=10, evaluation=seldom, **overrides)


def two_ranks(folder: Path, started: list[Run], *commands: tuple[str, ...], **overrides: object) -> Run:
    """Start a run of two ranks, by these commands or as a user would."""
    recipe = long_recipe(folder, engine__rank_timeout=TIMEOUT, **overrides)
    commands = commands or (TACIT, TACIT)
    started.append(Run(folder, *((*command, "--config", str(recipe)) for command in commands)))
    return started[-1]


def checkpoint_of(run: Run) -> Path:
    """Return the newest checkpoint, which must be whole, and the last step of the run."""
    latest = (run.run_dir / "checkpoints" / "latest").resolve()
    assert fault_of(latest) is None
    return latest


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGUSR1))]
)
def test_the_launcher_passes_signals_on_and_leaves_nobody_behind(
    tmp_path: Path, started: list[Run], number: signal.Signals
) -> None:
    recipe = long_recipe(tmp_path, engine__deepspeed="ds_configs/zero3.json")
    started.append(Run(tmp_path, ("launchers/one_node.sh", "2", str(recipe))))
    (run,) = started
    run.wait_for_step(12)
    descendants = run.descendants()
    assert len(descendants) >= 3  # DeepSpeed's launcher and two ranks
    run.processes[0].send_signal(number)
    run.processes[0].send_signal(number)  # impatience changes nothing
    assert run.exit_codes() == [75], run.said
    assert not psutil.wait_procs(descendants, timeout=1)[1]
    assert f"step_{run.steps()[-1]:08d}" == checkpoint_of(run).name
    assert run.said.count("tacit: interrupted: stopped at step") == 1 and "Traceback" not in run.said


@pytest.mark.slow
def test_one_process_stops_with_75_and_goes_on(tmp_path: Path, started: list[Run]) -> None:
    recipe = long_recipe(tmp_path)
    started.append(Run(tmp_path, (*TACIT, "--config", str(recipe))))
    started[0].wait_for_step(12)
    started[0].processes[0].send_signal(signal.SIGTERM)
    assert started[0].exit_codes() == [75], started[0].said
    stopped_at = started[0].steps()[-1]
    started.append(Run(tmp_path, (*TACIT, "--config", str(recipe), "--resume")))
    started[1].wait_for_step(stopped_at + 10)
    assert started[1].steps() == list(range(1, started[1].steps()[-1] + 1))
    assert f"resumed at step {stopped_at}" in started[1].said


def test_a_rank_that_dies_is_named_and_the_others_end(tmp_path: Path, started: list[Run]) -> None:
    run = two_ranks(tmp_path, started)
    run.wait_for_step(12)
    run.processes[1].kill()
    assert run.exit_codes() == [1, -signal.SIGKILL], run.said
    assert f"rank 1 (process {run.processes[1].pid} on " in run.said and "has ended" in run.said
    assert "Traceback" not in run.said
    checkpoint_of(run)


@pytest.mark.slow
def test_the_death_of_the_first_rank_is_told_by_the_others(tmp_path: Path, started: list[Run]) -> None:
    run = two_ranks(tmp_path, started, engine__deepspeed="ds_configs/zero2.json")
    run.wait_for_step(12)
    run.processes[0].kill()
    assert run.exit_codes() == [-signal.SIGKILL, 1], run.said
    assert f"rank 0 (process {run.processes[0].pid} on " in run.said and "has ended" in run.said


@pytest.mark.slow
def test_a_silent_rank_is_named_and_the_others_end(tmp_path: Path, started: list[Run]) -> None:
    run = two_ranks(tmp_path, started)
    run.wait_for_step(12)
    run.processes[1].send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    assert run.processes[0].wait(SECONDS_TO_END) == 1, run.said
    assert time.monotonic() - begin < 4 * TIMEOUT
    assert f"rank 1 (process {run.processes[1].pid} on " in run.said
    assert f"has not answered for {TIMEOUT} s" in run.said
    run.processes[1].kill()


@pytest.mark.slow
@pytest.mark.parametrize("hanging_rank", [0, 1])
def test_a_hanging_rank_is_named_by_all(tmp_path: Path, started: list[Run], hanging_rank: int) -> None:
    commands = [(sys.executable, "-c", HANG.format(hangs=rank == hanging_rank)) for rank in (0, 1)]
    run = two_ranks(tmp_path, started, *commands)
    run.wait_for_step(5)
    assert run.exit_codes() == [1, 1], run.said
    name = f"rank {hanging_rank} (process {run.processes[hanging_rank].pid} on {os.uname().nodename})"
    assert f"{name} has stood still for" in run.said and "in train_step" in run.said


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_ends_the_run_and_loses_nothing(tmp_path: Path, started: list[Run]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        recipe = long_recipe(tmp_path, run__output_dir=str(disk / "run"), run__keep_checkpoints=1000)
        started.append(Run(disk, (*TACIT, "--config", str(recipe))))
        (run,) = started
        assert run.exit_codes() == [1], run.said
        assert "could not be written (No space left on device). What was saved before is whole" in run.said
        assert "Traceback" not in run.said
        checkpoints = sorted((disk / "run" / "checkpoints").glob("*step_*"))
        assert len(checkpoints) >= 2 and all(fault_of(folder) is None for folder in checkpoints)
        last = checkpoint_of(run)
        for folder in checkpoints[:2]:
            shutil.rmtree(folder)
        again = (*TACIT, "--config", str(recipe), "--resume", "--run.keep_checkpoints", "1")
        started.append(Run(disk, again))
        started[1].wait_for_step(int(last.name[5:]) + 15)
    finally:
        for other in started:
            for process in other.processes:
                process.kill()
                process.wait()
        subprocess.run(["umount", disk], check=True)
