"""Sees to it that no rank waits for ever: where one has died or stands still, the others end and name it.

Every rank has a thread that tells the others, through a store of their own, that it is alive, and looks at where its
main thread stands. A main thread that is at the same instruction for a long time, and is not waiting for other ranks,
hangs. No part of a step needs to report anything, and a step pays nothing.
"""

import os
import socket
import sys
import threading
import time
from types import FrameType, TracebackType

import torch.distributed as torch_dist

from pipeline.ranks import from_rank_zero, gather_lists, rank, world_size

# Code in which a rank waits for other ranks: collectives, locks, and autograd, whose hooks call collectives elsewhere.
WAITING = ("torch/distributed/", "deepspeed/comm/", "pipeline/ranks.py", "torch/autograd/graph.py", "filelock/")
LEFT = "left"
SECONDS_TO_FOLLOW = 5.0  # a rank may be that much later than others to leave, or to be missed


class Watchdog:
    """Watches from ``__enter__`` to ``__exit__``; with one rank it does nothing.

    A collective that fails raises on the ranks that are left; ``__exit__`` then tells which one is gone.
    """

    def __init__(self, timeout: float) -> None:
        """Set the limit.

        Args:
            timeout: Seconds for which a rank may be silent, or stand still without waiting for others.
        """
        self._timeout = timeout
        self._interval = min(1.0, timeout / 5)
        self._leaving = threading.Event()

    def __enter__(self) -> "Watchdog":
        if world_size() > 1:
            self._begin()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if world_size() == 1:
            return
        if isinstance(error, RuntimeError) and (gone := self._wait_for_loss()):
            reason = str(error).partition("\n")[0]
            _end(f"{gone} (seen here as: {reason})")
        self._leaving.set()
        self._thread.join(timeout=SECONDS_TO_FOLLOW)

    def _begin(self) -> None:
        host = os.environ["MASTER_ADDR"]
        port = 0
        if rank() == 0:
            self._store = torch_dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)
            port = self._store.port
        port = from_rank_zero(port)
        if rank() != 0:
            self._store = torch_dist.TCPStore(host, port, is_master=False, wait_for_workers=False)
        self._names = gather_lists([f"rank {rank()} (process {os.getpid()} on {socket.gethostname()})"])
        self._store.set(_beat_of(rank()), "0")
        torch_dist.barrier()  # so that every beat is there to be looked up
        self._heard = {other: ("", time.monotonic()) for other in range(world_size()) if other != rank()}
        self._still = _Stillness(threading.get_ident())
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        num_beats, store_lost = 0, None
        while not self._leaving.wait(self._interval):
            num_beats += 1
            try:
                self._store.set(_beat_of(rank()), f"{num_beats} {self._still.seconds():.0f}")
                fault = self._fault()
                store_lost = None
            except Exception:  # the store lives in rank 0, whose end looks like this
                store_lost = store_lost or time.monotonic()
                gone = time.monotonic() - store_lost > SECONDS_TO_FOLLOW
                fault = f"{self._names[0]} has ended" if gone else None
            if fault is not None and not self._leaving.wait(self._interval):
                _end(fault)
        try:
            self._store.set(_beat_of(rank()), LEFT)
        except Exception:  # rank 0 has left already
            return

    def _fault(self) -> str | None:
        """Return why the run cannot go on, as far as this rank can see."""
        beats = self._beats()
        now = time.monotonic()
        for other, beat in beats.items():
            if beat != self._heard[other][0]:
                self._heard[other] = (beat, now)
            elif beat == LEFT and now - self._heard[other][1] > self._timeout:
                return f"{self._names[other]} has ended"
            elif now - self._heard[other][1] > self._timeout:
                return f"{self._names[other]} has not answered for {self._timeout:.0f} s"
        own = self._still.seconds()
        if own > self._timeout and not self._still.waits():
            fault = f"{self._names[rank()]} has stood still for {own:.0f} s in {self._still.place()}"
            self._store.set("verdict", fault)
            return fault
        if self._store.check(["verdict"]):
            return self._store.get("verdict").decode()
        others = [float(beat.split()[1]) for beat in beats.values() if " " in beat]
        if len(others) == len(beats) and min(own, *others) > 2 * self._timeout:
            return f"no rank has moved for {own:.0f} s; {self._names[rank()]} waits in {self._still.place()}"
        return None

    def _beats(self) -> dict[int, str]:
        values = self._store.multi_get([_beat_of(other) for other in self._heard])
        return {other: value.decode() for other, value in zip(self._heard, values, strict=True)}

    def _wait_for_loss(self) -> str | None:
        """Return which rank has gone, after a collective failed; None if all are there, and the error is our own."""
        try:
            before = self._beats()
            time.sleep(SECONDS_TO_FOLLOW)
            gone = [other for other, beat in self._beats().items() if beat in (before[other], LEFT)]
        except Exception:  # the store has gone with rank 0
            gone = [0]
        return f"{', '.join(self._names[other] for other in gone)} has ended" if gone else None


class _Stillness:
    """For how long a thread has stood at the same instruction."""

    def __init__(self, thread_id: int) -> None:
        self._thread_id = thread_id
        self._position: tuple[tuple[int, int], ...] = ()
        self._since = time.monotonic()

    def seconds(self) -> float:
        """Look where the thread is now; return since when it has been there at every look."""
        position = tuple((id(frame), frame.f_lasti) for frame in self._frames())
        if position != self._position:
            self._position, self._since = position, time.monotonic()
        return time.monotonic() - self._since

    def waits(self) -> bool:
        """Return whether it waits for other ranks."""
        return any(part in frame.f_code.co_filename for frame in self._frames() for part in WAITING)

    def place(self) -> str:
        """Return where it is, for a message."""
        frame = self._frames()[0]
        return f"{frame.f_code.co_name} ({os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno})"

    def _frames(self) -> list[FrameType]:
        frame, frames = sys._current_frames().get(self._thread_id), []
        while frame is not None:
            frames.append(frame)
            frame = frame.f_back
        return frames


def _beat_of(number: int) -> str:
    return f"beat{number}"


def _end(fault: str) -> None:
    """End this process at once: its main thread may never come back from a collective."""
    print(
        f"tacit: error: {fault}; the run ends. --resume goes on from the last checkpoint.", file=sys.stderr, flush=True
    )
    os._exit(1)
