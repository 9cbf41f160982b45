"""What the tests of the launchers share: how a run is started, and what two runs have in common."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import ROOT, free_port, shell_environment

LAUNCHERS = ROOT / "launchers"
TWO_HOSTS = ROOT / "tests" / "launch" / "two_hosts.sh"
SBIN = "/usr/sbin"  # where daemons live, on some systems outside a user's PATH


def needs_root_and(*programs: str) -> pytest.MarkDecorator:
    """Skip where network namespaces cannot be made, or one of the programs is not installed."""
    missing = [name for name in programs if not shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}{SBIN}")]
    lacks = ["root"] * (os.geteuid() != 0) + missing
    return pytest.mark.skipif(bool(lacks), reason=f"needs {' and '.join(lacks)}")


def environment(**variables: str) -> dict[str, str]:
    """Return this process's variables, its Python first on the PATH, and others on top."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], SBIN])
    return shell_environment(**{"PATH": path, "MASTER_PORT": str(free_port()), **variables})


def run(*command: str | Path, timeout: float = 300, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository's root, with stdout and stderr together as text."""
    return subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )


def curve(run_dir: Path) -> list[tuple[int, float, float]]:
    """Return step, loss and gradient norm of every training row of a finished run of two ranks."""
    assert json.loads((run_dir / "environment.json").read_text())["world_size"] == 2
    assert (run_dir / "model" / "model.safetensors").is_file()
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows if row["kind"] == "train"]


def assert_same(found: list[tuple[int, float, float]], expected: list[tuple[int, float, float]]) -> None:
    """Fail unless both curves have the same steps, and losses and norms within 1e-6."""
    assert [row[0] for row in found] == [row[0] for row in expected]
    differences = [abs(a - b) for x, y in zip(found, expected, strict=True) for a, b in zip(x, y, strict=True)]
    print(f"largest difference over {len(found)} steps: {max(differences)}; loss {found[0][1]} to {found[-1][1]}")
    assert max(differences) <= 1e-6
