"""A process alone makes a process group, and leaves none behind."""

import subprocess
import sys

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
