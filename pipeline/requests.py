"""What asks a running training to save or to stop: signals to any rank, files in the run directory, the clock."""

import enum
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.ranks import largest_of_all_ranks, rank

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SECONDS_BETWEEN_LOOKS = 1.0  # at the files: a shared file system is not to be asked at every step


class Request(enum.IntEnum):
    """What is asked for; of several, the largest is done."""

    NONE = 0
    SAVE = 1
    STOP = 2


FILES = {"save_now": Request.SAVE, "stop_now": Request.STOP}


class Requests:
    """Listens from ``__enter__`` to ``__exit__``. A repeated signal is the same request.

    Attributes:
        reason: What asked for the latest stop on this rank; empty where another rank was asked.
    """

    def __init__(self, run_dir: Path, save_every_minutes: float | None) -> None:
        self._run_dir = run_dir
        self._save_every_seconds = None if save_every_minutes is None else 60 * save_every_minutes
        self._stops = False
        self._last_look = self._last_save = time.monotonic()
        self.reason = ""

    def poll(self) -> Request:
        """Return what any rank is asked for; every rank learns the same. Called once a step."""
        own = Request.STOP if self._stops else Request.NONE
        if rank() == 0:
            own = max(own, self._from_files(), self._from_clock())
        return Request(largest_of_all_ranks(own))

    def saved(self) -> None:
        """Begin to count the minutes to the next save anew."""
        self._last_save = time.monotonic()

    def _from_files(self) -> Request:
        if time.monotonic() - self._last_look < SECONDS_BETWEEN_LOOKS:
            return Request.NONE
        self._last_look = time.monotonic()
        found = Request.NONE
        for name, request in FILES.items():
            path = self._run_dir / name
            if path.exists():
                path.unlink(missing_ok=True)
                found = max(found, request)
                self.reason = self.reason or name
        return found

    def _from_clock(self) -> Request:
        if self._save_every_seconds is None or time.monotonic() - self._last_save < self._save_every_seconds:
            return Request.NONE
        return Request.SAVE

    def _note(self, number: int, _: FrameType | None) -> None:
        self._stops = True
        self.reason = signal.Signals(number).name

    def __enter__(self) -> "Requests":
        self._before: dict[int, Any] = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
