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
            process.send_signal(number)

    for number in SIGNALS:
        signal.signal(number, forward)
    code = launcher.wait()
    for process in marked(mark):
        process.kill()
    return 128 - code if code < 0 else code


def ranks(mark: str) -> list[psutil.Process]:
    """Return the ranks: the marked processes with a rank whose parent has none."""
    with_rank = {process.pid: process for process in marked(mark) if "RANK" in process.environ()}
    return [process for process in with_rank.values() if process.ppid() not in with_rank]


def marked(mark: str) -> list[psutil.Process]:
    """Return the processes that carry a mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:  # another user's, or gone meanwhile
            continue
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
