"""`launchers/torchrun.sh` for real, on this host: two ranks of one node, and two nodes of one rank."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.launch.runs import LAUNCHERS, assert_same, curve, environment, run

pytestmark = pytest.mark.slow
TORCHRUN = LAUNCHERS / "torchrun.sh"


def test_two_ranks_of_one_node(recipe: Path, one_host: list) -> None:
    run_dir = recipe.parent / "torchrun one node"
    finished = run(TORCHRUN, "2", recipe, "--run.output_dir", run_dir)
    assert finished.returncode == 0, finished.stdout
    assert_same(curve(run_dir), one_host)


@pytest.mark.parametrize("numbered", [True, False])
def test_two_nodes_of_one_rank(recipe: Path, one_host: list, numbered: bool) -> None:
    run_dir = recipe.parent / f"torchrun_numbered_{numbered}"
    port = environment()["MASTER_PORT"]

    def node(number: int) -> subprocess.CompletedProcess[str]:
        place = {"NODE_RANK": str(number)} if numbered else {}
        meet = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return run(TORCHRUN, "1", recipe, "--run.output_dir", run_dir, **meet, **place)

    with ThreadPoolExecutor() as pool:
        for finished in pool.map(node, (0, 1)):
            assert finished.returncode == 0, finished.stdout
    assert_same(curve(run_dir), one_host)


def test_a_mistake_ends_every_rank(recipe: Path) -> None:
    refused = run(TORCHRUN, "2", recipe, "--data.train", "nowhere.txt")
    assert refused.returncode == 1  # torchrun's own, whatever the ranks' is; that stands in what it prints
    assert "exitcode  : 2" in refused.stdout
