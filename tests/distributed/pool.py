"""Two real gloo ranks that stay alive over many tests, since starting them costs seconds."""

import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from tests.forked import FORKS
from tests.tiny import variables_of_ranks

SECONDS_PER_JOB = 180


class RankPool:
    """Runs a function on every rank and returns the results in rank order."""

    def __init__(self, num_ranks: int) -> None:
        self._connections: list[Connection] = []
        self._processes = []
        for variables in variables_of_ranks(num_ranks):
            here, there = FORKS.Pipe()
            process = FORKS.Process(target=_serve, args=(there, variables), daemon=True)
            process.start()
            self._connections.append(here)
            self._processes.append(process)

    def run(self, job: Callable[..., Any], *args: Any) -> list[Any]:
        """Run ``job(*args)`` on all ranks at once; a failure or a hang on any of them fails the test."""
        for connection in self._connections:
            connection.send((job, args))
        results, faults = [], []
        for rank, connection in enumerate(self._connections):
            if not connection.poll(SECONDS_PER_JOB):
                self.close()
                raise AssertionError(f"rank {rank} did not answer within {SECONDS_PER_JOB} s; earlier faults: {faults}")
            done, value = connection.recv()
            (results if done else faults).append(value)
        assert not faults, "\n".join(faults)
        return results

    def close(self) -> None:
        """End the ranks."""
        for process in self._processes:
            process.kill()
            process.join()


def _serve(connection: Connection, variables: dict[str, str]) -> None:
    os.environ.update(variables)
    from pipeline.engine import init_distributed

    init_distributed()
    while True:
        job, args = connection.recv()
        try:
            connection.send((True, job(*args)))
        except BaseException:
            connection.send((False, f"rank {variables['RANK']}:\n{traceback.format_exc()}"))
