"""Runs a launcher so that a signal reaches its ranks: `python launchers/forward_signals.py deepspeed ARGUMENTS...`.

DeepSpeed's launcher, told to end, leaves its ranks behind, or kills them before they have saved. Here TERM, INT and
USR1 go to the ranks alone; they save and end, and the launcher with them, with their exit code (75: can be resumed).
Whatever the launcher leaves behind is killed.
"""

import os
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from types import FrameType

import psutil

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
MARK = "TACIT_LAUNCH"  # every process that descends from the launcher has it, whatever session or parent it has


def main(command: list[str]) -> int:
    """Run the command; return its exit code, or 128 and the number of the signal that ended it."""
    mark = uuid.uuid4().hex
    launcher = subprocess.Popen(command, env={**os.environ, MARK: mark}, start_new_session=True)

    def forward(number: int, _: FrameType | None) -> None:
        # Before there are ranks there is nothing to save, and the launcher may end.
        for process in ranks(mark) or [psutil.Process(launcher.pid)]:
            with suppress(psutil.Error):  # gone meanwhile
                process.send_signal(number)

    for number in SIGNALS:
        signal.signal(number, forward)
    code = launcher.wait()
    for process in marked(mark):
        with suppress(psutil.Error):
            process.kill()
    return 128 - code if code < 0 else code


def ranks(mark: str) -> list[psutil.Process]:
    """Return the ranks: the marked processes with a rank whose parent has none."""
    with_rank = {process.pid: process for process, variables in marked(mark).items() if "RANK" in variables}
    found = []
    for process in with_rank.values():
        with suppress(psutil.Error):
            if process.ppid() not in with_rank:
                found.append(process)
    return found


def marked(mark: str) -> dict[psutil.Process, dict[str, str]]:
    """Return the processes that carry a mark, with their environment variables."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # another user's, or gone meanwhile
            variables = process.environ()
            if variables.get(MARK) == mark:
                found[process] = variables
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
