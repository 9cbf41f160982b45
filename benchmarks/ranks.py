"""Ranks as fresh processes that do what they are told, one command at a time, and wait without work in between."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import psutil  # type: ignore[import-untyped]

ANSWER = "answer: "  # what a rank prints before a result, apart from all else that is printed


class Ranks:
    """The ranks of one run, of one thread each unless they say otherwise.

    Each executes ``python -m MODULE ARGUMENTS`` and ends up in ``serve``.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], num_ranks: int, environment: Mapping[str, str] | None = None
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._name = f"{module} {' '.join(arguments)}"
        self._files = tempfile.TemporaryDirectory()
        self._errors = [Path(self._files.name) / str(rank) for rank in range(num_ranks)]
        self._processes = []
        places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(num_ranks)}
        common = {**os.environ, **(environment or {}), **places, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        for rank, path in enumerate(self._errors):
            with path.open("w") as errors:
                process = subprocess.Popen(
                    [sys.executable, "-m", module, *arguments],
                    env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
            self._processes.append(process)

    def ask(self, command: str) -> list[Any]:
        """Let every rank do something; returns each one's answer, in rank order.

        Raises:
            RuntimeError: If a rank ends instead.
        """
        self.tell(command)
        return self.answers()

    def tell(self, command: str) -> None:
        """Let every rank begin with something; ``answers`` waits for it.

        Raises:
            RuntimeError: If a rank has ended.
        """
        for process in self._processes:
            assert process.stdin is not None
            try:
                process.stdin.write(f"{command}\n")
                process.stdin.flush()
            except BrokenPipeError:
                self._fail()

    def answers(self) -> list[Any]:
        """Wait for what every rank was told last.

        Raises:
            RuntimeError: If a rank ends instead.
        """
        return [self._answer(process) for process in self._processes]

    def cpu_seconds(self) -> float:
        """Return the processor time that the ranks have taken so far."""
        times = [psutil.Process(process.pid).cpu_times() for process in self._processes]
        return sum(time.user + time.system for time in times)

    def _answer(self, process: subprocess.Popen[str]) -> Any:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line.removeprefix(ANSWER))
        self._fail()

    def _fail(self) -> NoReturn:
        said = "\n".join(path.read_text()[-3000:] for path in self._errors)
        raise RuntimeError(f"{self._name}: a rank ended.\n{said}")

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._processes:
            if error is not None:
                process.kill()
        for process in self._processes:
            process.communicate()  # closes its commands, at which it ends
        self._files.cleanup()


def serve(commands: Mapping[str, Callable[[], Any]]) -> None:
    """Do in this rank what it is told, until there are no more commands."""
    for line in sys.stdin:
        print(ANSWER + json.dumps(commands[line.strip()]()), flush=True)
