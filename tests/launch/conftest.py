"""One recipe for every way of launching, and its run on one host, which the others are held against."""

from pathlib import Path

import pytest

from tests.launch.runs import LAUNCHERS, curve, run
from tests.tiny import write_recipe

Curve = list[tuple[int, float, float]]


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the recipe: ZeRO-3, 14 steps, 3 removals."""
    return write_recipe(tmp_path_factory.mktemp("launch"), engine__deepspeed="ds_configs/zero3.json")


@pytest.fixture(scope="session")
def one_host(recipe: Path) -> Curve:
    """Run the recipe on this host, 2 ranks."""
    return _one_host(recipe, "one_host")


@pytest.fixture(scope="session")
def one_host_long(recipe: Path) -> Curve:
    """Run it for long enough that it can be stopped in mid-run."""
    return _one_host(recipe, "one_host_long", *LONG)


LONG = ("--schedule.final_epochs", "30", "--run.checkpoint_every", "20", "--evaluation.every_stages", "9")


def _one_host(recipe: Path, name: str, *overrides: str) -> Curve:
    run_dir = recipe.parent / name
    finished = run(LAUNCHERS / "one_node.sh", "2", recipe, "--run.output_dir", run_dir, *overrides)
    assert finished.returncode == 0, finished.stdout
    return curve(run_dir)
