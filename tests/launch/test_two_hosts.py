"""Two hosts for real, network namespaces with a name, processes and sshd each: pdsh, no ssh at all, torchrun."""

import shlex
from pathlib import Path

import pytest

from tests.launch.runs import LAUNCHERS, ROOT, TWO_HOSTS, assert_same, curve, environment, needs_root_and, run

pytestmark = [pytest.mark.slow, needs_root_and("ip", "unshare", "sshd")]
HOSTFILE = LAUNCHERS / "hostfile.sh"
# The hosts' own names lead to 127.0.1.1, as on Debian, so gloo must be told where the others can reach it.
GLOO = {"GLOO_SOCKET_IFNAME": "wire"}


@pytest.fixture(scope="module")
def hostfile(recipe: Path) -> Path:
    """Name both hosts, one rank each."""
    path = recipe.parent / "hosts"
    path.write_text("# two hosts\ntacit-a slots=1\ntacit-b slots=1\n")
    return path


@needs_root_and("pdsh")
def test_pdsh(recipe: Path, hostfile: Path, one_host: list) -> None:
    run_dir = recipe.parent / "pdsh; $HOME %n"  # no shell on the way may read anything into this
    launch = (HOSTFILE, hostfile, recipe, "--run.output_dir", run_dir)
    finished = run(TWO_HOSTS, recipe.parent / "net", *launch, **GLOO)
    assert finished.returncode == 0, finished.stdout
    assert "tacit-b: " in finished.stdout  # pdsh's mark: a rank did run there
    assert_same(curve(run_dir), one_host)


@needs_root_and("pdsh")
def test_a_mistake_keeps_its_exit_code_over_pdsh(recipe: Path, hostfile: Path) -> None:
    refused = run(TWO_HOSTS, recipe.parent / "net", HOSTFILE, hostfile, recipe, "--data.train", "no where", **GLOO)
    assert refused.returncode == 2, refused.stdout
    assert "tacit: error: no where: no such file" in refused.stdout


@pytest.mark.parametrize(
    ("name", "launch"),
    [
        ("no_ssh", "LAUNCHER=none launchers/hostfile.sh {hosts}"),
        ("torchrun", "NNODES=2 MASTER_ADDR=tacit-a launchers/torchrun.sh 1"),
    ],
)
def test_started_on_each_host(recipe: Path, hostfile: Path, one_host: list, name: str, launch: str) -> None:
    run_dir = recipe.parent / name
    start = f"{launch.format(hosts=hostfile)} {recipe} --run.output_dir {run_dir}"
    here = {key: environment()[key] for key in ("PATH", "MASTER_PORT")}
    told = " ".join(f"{key}={value}" for key, value in {**here, **GLOO, "DS_ACCELERATOR": "cpu"}.items())
    there = shlex.quote(f"cd {ROOT} && export {told} NODE_RANK=1 && {start}")
    both = f"ssh tacit-b {there} & export {told} NODE_RANK=0; {start}; wait $!"
    finished = run(TWO_HOSTS, recipe.parent / "net", "bash", "-euc", both)
    assert finished.returncode == 0, finished.stdout
    assert_same(curve(run_dir), one_host)
