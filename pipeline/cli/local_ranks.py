"""Which rank this process is, and ranks of this program started as CPU processes of this machine."""

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

SECONDS_BETWEEN_LOOKS = 0.1


def is_first_rank() -> bool:
    """Return whether this process is the one that prints and writes."""
    return os.environ.get("RANK", "0") == "0"


def set_up_log(quiet: bool) -> None:
    """Let the first rank tell what goes on, or with ``quiet`` only warnings; the others tell errors alone."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    level = logging.WARNING if quiet else logging.INFO
    logging.getLogger("pipeline").setLevel(level if is_first_rank() else logging.ERROR)


def run_local_ranks(num_ranks: int, argv: Sequence[str]) -> int:
    """Run ``tacit ARGV`` on so many CPU ranks; the first that fails ends all.

    Returns:
        The failed rank's exit code, or 0.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        **os.environ,
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "pipeline", *argv], env={**common, "RANK": str(i), "LOCAL_RANK": str(i)}
        )
        for i in range(num_ranks)
    ]
    try:
        while True:
            codes = [process.poll() for process in ranks]
            failed = next((code for code in codes if code), 0)
            if failed or None not in codes:
                return failed
            time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        for process in ranks:
            process.kill()
            process.wait()
