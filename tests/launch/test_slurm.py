"""`launchers/slurm.sbatch` on a real Slurm of two nodes: the losses of one host, and what brings a job back."""

import re
from pathlib import Path

import pytest

from tests.launch.conftest import LONG
from tests.launch.runs import LAUNCHERS, ROOT, TWO_HOSTS, assert_same, curve, needs_root_and, run

pytestmark = [pytest.mark.slow, needs_root_and("ip", "unshare", "sshd", "slurmctld", "slurmd", "munged", "sbatch")]
CLUSTER = ROOT / "tests" / "launch" / "slurm_cluster.sh"
# Submits a job ($4...) and, once it has saved a checkpoint in the run directory ($1), does $2 to it; waits for its end.
DISTURB = """
job=$(sbatch --parsable --output "$3" "${@:4}")
until [[ -d $1/checkpoints/step_00000040 ]]; do
    [[ $(squeue --noheader --job "$job") ]]
    sleep 0.2
done
eval "$2"
while [[ $(squeue --noheader --job "$job") ]]; do sleep 1; done
scontrol show job "$job"
"""
URGENT = "sbatch --partition urgent --nodes 2 --exclusive --wait --output /dev/null --wrap 'sleep 1'"
WAYS = {
    "requeued by hand": ("main", 'scontrol requeue "$job"'),
    "interrupted ranks exit with 75": ("main", 'scancel --signal=INT "$job"'),
    "TERM as at the time limit": ("main", 'scancel --signal=TERM "$job"'),
    "pre-empted": ("main", URGENT),
    "pre-empted with a time of grace": ("grace", URGENT),
}


def job(recipe: Path, run_dir: Path, *overrides: str) -> list[str]:
    """Return what stands behind ``sbatch`` for a job of two nodes without GPUs."""
    resources = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--gpus-per-node=0"]
    return [
        *resources,
        *map(str, (LAUNCHERS / "slurm.sbatch", recipe, "--run.output_dir", run_dir, *overrides)),
    ]


def on_cluster(folder: Path, *command: str | Path) -> str:
    """Run a command on the first node; returns what it printed."""
    finished = run(TWO_HOSTS, folder, CLUSTER, folder, *command, GLOO_SOCKET_IFNAME="wire", timeout=400)
    assert finished.returncode == 0, finished.stdout
    return finished.stdout


def disturb(recipe: Path, folder: Path, partition: str, way: str) -> tuple[str, Path, Path]:
    """Do ``way`` to a job in mid-run; returns what Slurm says of it at its end, its run directory and its log."""
    run_dir, log = folder / "run", folder / "log"
    submit = [f"--partition={partition}", *job(recipe, run_dir, *LONG)]
    end = on_cluster(folder, "bash", "-euc", DISTURB, "disturb", run_dir, way, log, *submit)
    return end, run_dir, log


def test_two_nodes(recipe: Path, one_host: list, tmp_path: Path) -> None:
    run_dir = tmp_path / "the run; $HOME"
    on_cluster(tmp_path, "sbatch", "--wait", "--output", tmp_path / "log", *job(recipe, run_dir))
    assert_same(curve(run_dir), one_host)


@pytest.mark.parametrize("way", WAYS)
def test_a_job_goes_on(recipe: Path, one_host_long: list, tmp_path: Path, way: str) -> None:
    end, run_dir, log = disturb(recipe, tmp_path, *WAYS[way])
    assert "JobState=COMPLETED" in end and "Restarts=1" in end, end + log.read_text()
    resumed_at = re.search(r"resumed at step (\d+)", log.read_text())
    assert resumed_at and int(resumed_at[1]) >= 40
    assert_same(curve(run_dir), one_host_long)


def test_a_cancelled_job_stays_away(recipe: Path, tmp_path: Path) -> None:
    end, _, _ = disturb(recipe, tmp_path, "main", 'scancel "$job"')
    assert "JobState=CANCELLED" in end and "Restarts=0" in end


def test_a_mistake_does_not_come_back(recipe: Path, tmp_path: Path) -> None:
    submit = ["--output", str(tmp_path / "log"), *job(recipe, tmp_path / "run", "--data.train", "nowhere.txt")]
    end = on_cluster(tmp_path, "bash", "-euc", 'sbatch --wait "$@" || scontrol show job', "mistake", *submit)
    assert "JobState=FAILED" in end and "Restarts=0" in end and "ExitCode=2:0" in end
