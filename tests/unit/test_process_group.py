"""How a process joins the others, or is alone."""

import socket
import subprocess
import sys

import deepspeed
import pytest

from pipeline.engine import process_group
from pipeline.errors import UserError
from tests.tiny import ROOT, shell_environment

SCRIPT = """
import atexit
import torch.distributed
atexit.register(lambda: print(torch.distributed.is_initialized()))  # the last that is done
from pipeline.engine import init_distributed
init_distributed()
print(torch.distributed.is_initialized(), torch.distributed.get_world_size())
"""


def test_a_process_alone_takes_its_group_down_at_its_end() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=shell_environment(), capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["True", "1", "False"]


def test_a_taken_port_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        run = subprocess.run(
            [sys.executable, "-m", "pipeline", "train", "--config", "recipes/demo.yaml"],
            cwd=ROOT,
            env=shell_environment(RANK="0", LOCAL_RANK="0", WORLD_SIZE="2", **address),
            capture_output=True,
            text=True,
        )
    assert run.returncode == 2
    assert f"MASTER_ADDR, MASTER_PORT (127.0.0.1, {address['MASTER_PORT']}): the ranks cannot meet there" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_rank_without_a_gpu_of_its_own_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = deepspeed.get_accelerator()
    monkeypatch.setattr(accelerator, "device_name", lambda: "cuda")
    monkeypatch.setattr(accelerator, "device_count", lambda: 2)
    taken: list[int] = []
    monkeypatch.setattr(accelerator, "set_device", taken.append)
    process_group._take_device(1)
    with pytest.raises(UserError, match=r"LOCAL_RANK \(2\): there are 2 GPUs to see"):
        process_group._take_device(2)
    assert taken == [1]
