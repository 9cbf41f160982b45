"""The launchers as scripts: what they refuse, and what they hand to the programs they call.

Those programs are stood in for here, since the subject is their arguments; tests/launch runs the real ones.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAUNCHERS = ROOT / "launchers"
SCRIPTS = sorted([*LAUNCHERS.glob("*.sh"), *LAUNCHERS.glob("*.sbatch"), *(ROOT / "tests").rglob("*.sh")])
OVERRIDES = ["--data.train", 'my rows/*; `id` $HOME %n "it\'s".txt', "--run.keep_stages", "[0, 4]", ""]
TRAIN = ["-m", "pipeline", "train", "--config", "my recipe.yaml"]
RECORD = """#!/usr/bin/env bash
[[ ${0##*/} == scontrol && $1 == show ]] && { echo node-a; echo node-b; exit; }
{ printf '%s\\0' "${0##*/}" "$@"; env -0 | grep -z -E '^(RANK|LOCAL_|WORLD|MASTER|NCCL|HF_|PYTORCH|CUDA_V)' || true
} >"$STAND_INS/${0##*/}.called"
"""
SRUN = """#!/usr/bin/env bash
while [[ $1 == -* ]]; do shift; done
export SLURM_PROCID=5 SLURM_LOCALID=1
"$@"
exit "${SRUN_EXITS:-0}"
"""


class StandIns:
    """A folder of programs that write down how they were called; first on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("deepspeed", "torchrun", "python", "scontrol", "srun"):
            (folder / name).write_text(SRUN if name == "srun" else RECORD)
            (folder / name).chmod(0o755)
        # Not what this process has: libraries that tests import set variables that a launcher would pass on.
        self.variables = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "STAND_INS": str(folder)}

    def run(self, script: str, *arguments: str, cwd: Path = ROOT, **variables: str) -> tuple[int, str]:
        """Run a launcher; returns its exit code and stderr."""
        finished = subprocess.run(
            [LAUNCHERS / script, *arguments],
            cwd=cwd,
            env={**self.variables, **variables},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return finished.returncode, finished.stderr

    def calls(self, name: str) -> list[str] | None:
        """Return the arguments of the latest call, then its variables; None if there was none."""
        path = self.folder / f"{name}.called"
        return path.read_text().split("\0")[1:-1] if path.exists() else None


@pytest.fixture
def stand_ins(tmp_path: Path) -> StandIns:
    return StandIns(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script: Path) -> None:
    assert os.access(script, os.X_OK) or script.suffix == ".sbatch"
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in script.read_text()
    subprocess.run(["bash", "-n", script], check=True)
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if not shellcheck:
        pytest.skip("shellcheck is not installed")
    found = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("one_node.sh", ["2"]),
        ("torchrun.sh", ["2"]),
        ("hostfile.sh", ["hosts"]),
        ("slurm.sbatch", []),
        ("rank.sh", []),
    ],
)
def test_missing_arguments_show_the_usage(stand_ins: StandIns, script: str, arguments: list[str]) -> None:
    code, stderr = stand_ins.run(script, *arguments)
    assert code == 2 and stderr.startswith("usage: ") and script in stderr


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "says"),
    [
        ("torchrun.sh", ["1", "r.yaml"], {"NNODES": "2"}, "MASTER_ADDR is not set"),
        ("hostfile.sh", ["nowhere", "r.yaml"], {}, "nowhere is not a file"),
        ("hostfile.sh", ["README.md", "r.yaml"], {"LAUNCHER": "rsh"}, "LAUNCHER=rsh is not known"),
        ("hostfile.sh", ["README.md", "r.yaml"], {"LAUNCHER": "none"}, "NODE_RANK is not set"),
    ],
)
def test_wrong_use_is_refused(
    stand_ins: StandIns, script: str, arguments: list[str], variables: dict[str, str], says: str
) -> None:
    code, stderr = stand_ins.run(script, *arguments, **variables)
    assert code == 2 and stderr.startswith(f"{script}: {says}") and stderr.count("\n") == 1
    assert stand_ins.calls("deepspeed") is None and stand_ins.calls("torchrun") is None


def test_one_node(stand_ins: StandIns) -> None:
    assert stand_ins.run("one_node.sh", "2", "my recipe.yaml", *OVERRIDES, MASTER_PORT="1234")[0] == 0
    expected = ["launchers/forward_signals.py", "deepspeed", "--num_gpus", "2", "--master_port", "1234"]
    expected += ["--no_local_rank", "--module", *TRAIN[1:], *OVERRIDES]
    called = stand_ins.calls("python")
    assert called is not None and called[: len(expected)] == expected


@pytest.mark.parametrize(
    ("variables", "meets"),
    [
        ({}, ["--standalone"]),
        (
            {"NNODES": "2", "MASTER_ADDR": "node-a", "NODE_RANK": "1"},
            ["--nnodes", "2", "--node_rank", "1", "--master_addr", "node-a", "--master_port", "29500"],
        ),
        (
            {"NNODES": "2", "MASTER_ADDR": "node-a", "MASTER_PORT": "7", "RDZV_ID": "x"},
            ["--nnodes", "2", "--rdzv_backend", "c10d", "--rdzv_id", "x", "--rdzv_endpoint", "node-a:7"],
        ),
    ],
)
def test_torchrun(stand_ins: StandIns, variables: dict[str, str], meets: list[str]) -> None:
    assert stand_ins.run("torchrun.sh", "4", "my recipe.yaml", *OVERRIDES, **variables)[0] == 0
    expected = [*meets, "--nproc_per_node", "4", *TRAIN, *OVERRIDES]
    called = stand_ins.calls("torchrun")
    assert called is not None and called[: len(expected)] == expected


@pytest.mark.parametrize(
    ("variables", "starts"),
    [
        ({}, ["--launcher", "pdsh", "--force_multi"]),
        ({"LAUNCHER": "none", "NODE_RANK": "1"}, ["--no_ssh", "--node_rank", "1"]),
    ],
)
def test_hostfile(stand_ins: StandIns, variables: dict[str, str], starts: list[str]) -> None:
    hosts = stand_ins.folder / "hosts"
    hosts.write_text("# ours\n\nme@node-a slots=4\nnode-b slots=4\n")
    secret = {"NCCL_SOCKET_IFNAME": "eth 0", "HF_HOME": "/shared", "HF_TOKEN": "secret"}
    assert stand_ins.run("hostfile.sh", str(hosts), "my recipe.yaml", *OVERRIDES, **variables, **secret)[0] == 0
    called = stand_ins.calls("deepspeed")
    assert called is not None
    end = called.index("launchers/rank.sh")
    assert called[:end] == [
        *("--hostfile", str(hosts), *starts, "--master_addr", "node-a", "--master_port", "29500"),
        *("--no_local_rank", "--no_python"),
    ]
    word = called[end + 1]
    assert word.replace("+", "").replace("/", "").rstrip("=").isalnum()  # nothing a shell would read

    # On the other host: a bare environment, from which the word alone finds the same Python.
    bare = {"PATH": "/usr/bin:/bin", "STAND_INS": str(stand_ins.folder)}
    subprocess.run([LAUNCHERS / "rank.sh", word], env=bare, check=True, timeout=30)
    expected = ["-u", *TRAIN, *OVERRIDES]
    started = stand_ins.calls("python")
    assert started is not None and started[: len(expected)] == expected
    assert sorted(started[len(expected) :]) == ["HF_HOME=/shared", "NCCL_SOCKET_IFNAME=eth 0"]


def test_one_24gb_card(stand_ins: StandIns) -> None:
    assert stand_ins.run("one_24gb_card.sh", "my recipe.yaml", *OVERRIDES)[0] == 0
    called = stand_ins.calls("python")
    assert called is not None and called[: len(TRAIN + OVERRIDES)] == [*TRAIN, *OVERRIDES]
    assert "PYTORCH_ALLOC_CONF=expandable_segments:True" in called

    assert stand_ins.run("one_24gb_card.sh", "--optim.lr", "1e-4")[0] == 0
    called = stand_ins.calls("python")
    assert called is not None and called[3:7] == [
        *("--config", "recipes/gsm8k_mistral_7b_qlora_24gb.yaml", "--optim.lr", "1e-4"),
    ]


SLURM = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_NTASKS": "8", "SLURM_CPUS_PER_TASK": "2"}
REQUEUE = ["requeue", "12345"]


@pytest.mark.parametrize(
    ("exits", "comes_back"), [(0, False), (1, False), (2, False), (137, False), (75, True), (143, True)]
)
def test_slurm(stand_ins: StandIns, exits: int, comes_back: bool) -> None:
    code, _ = stand_ins.run("slurm.sbatch", "my recipe.yaml", *OVERRIDES, SRUN_EXITS=str(exits), **SLURM)
    assert code == exits
    expected = ["-u", *TRAIN, "--resume", *OVERRIDES]
    called = stand_ins.calls("python")
    assert called is not None and called[: len(expected)] == expected
    assert {"RANK=5", "LOCAL_RANK=1", "WORLD_SIZE=8", "MASTER_ADDR=node-a", "MASTER_PORT=22345"} <= set(called)
    requeued = stand_ins.calls("scontrol")
    assert (requeued is not None and requeued[:2] == REQUEUE) == comes_back


def test_slurm_wants_the_repository(stand_ins: StandIns) -> None:
    code, stderr = stand_ins.run("slurm.sbatch", "my recipe.yaml", cwd=stand_ins.folder, **SLURM)
    assert code == 2 and "submit from there" in stderr
