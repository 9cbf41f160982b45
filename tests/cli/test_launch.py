"""Training and evaluation as a user starts them: through the shell, and through DeepSpeed's launcher on two ranks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked import tacit
from tests.tiny import ROOT, free_port, shell_environment, write_recipe

LAUNCHER = [
    str(Path(sys.executable).parent / "deepspeed"),
    "--master_port",
    str(free_port()),
    "--num_gpus",
    "2",
    "--no_local_rank",
    "--module",
    "pipeline",
]


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = shell_environment(PYTHONPATH=str(ROOT))
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=180, check=False)


def test_stdout_holds_the_result_and_nothing_else(tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path, schedule__max_steps=3))
    trained = _run(sys.executable, "-m", "pipeline", "train", "--config", recipe, "--json")
    assert json.loads(trained.stdout)["num_steps"] == 3


def test_training_through_the_launcher(tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path, engine__deepspeed="ds_configs/zero3.json"))
    trained = _run(*LAUNCHER, "train", "--config", recipe, "--schedule.max_steps", "6")
    assert trained.returncode == 0, trained.stderr
    assert (trained.stdout + trained.stderr).count("step 6  1 removed") == 1  # one rank speaks
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["world_size"] == 2


@pytest.mark.slow
def test_train_resume_and_evaluate_through_the_launcher(tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path, engine__deepspeed="ds_configs/zero3.json", run__keep_stages=[0]))
    trained = _run(*LAUNCHER, "train", "--config", recipe, "--schedule.max_steps", "6")
    assert trained.returncode == 0, trained.stderr
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["world_size"] == 2

    resumed = _run(*LAUNCHER, "train", "--config", recipe, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed at step 6" in resumed.stderr
    assert resumed.stdout.count("next: tacit frontier") == 1  # one rank speaks
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 15))

    folders = [str(tmp_path / "run" / "stages" / "removed_0000"), str(tmp_path / "run" / "model")]
    common = ["--data", str(tmp_path / "test.txt"), "--num_timed", "2", "--json"]
    one = tacit("evaluate", "--model", folders[1], *common, "--samples", tmp_path / "samples.jsonl")
    assert one.returncode == 0, one.stderr
    report = json.loads(one.stdout)
    assert report["num_examples"] == 9 and 0 <= report["accuracy"] <= 1 and report["examples_per_second"] > 0
    samples = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert len(samples) == 9

    scored = tacit("score", tmp_path / "samples.jsonl", "--json")
    assert json.loads(scored.stdout)["accuracy"] == report["accuracy"]

    both = _run(*LAUNCHER, "evaluate", "--model", *folders, *common)
    assert both.returncode == 0, both.stderr
    table = json.loads(next(line for line in both.stdout.splitlines() if line.startswith("[{")))
    assert [row["num_removed"] for row in table] == [0, 4]
    assert table[1]["accuracy"] == report["accuracy"]


@pytest.mark.parametrize(
    "mistake",
    [["--optim.lrr", "3"], pytest.param(["--data.train", "nowhere.txt"], marks=pytest.mark.slow)],
    ids=["before all else", "in the data"],
)
def test_a_mistake_under_the_launcher_is_told_once_without_traceback(tmp_path: Path, mistake: list[str]) -> None:
    failed = _run(*LAUNCHER, "train", "--config", str(write_recipe(tmp_path)), *mistake)
    assert failed.returncode != 0
    assert failed.stderr.count("tacit: error:") == 1
    assert "Traceback" not in failed.stderr + failed.stdout
