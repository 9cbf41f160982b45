"""Ranks as processes that do what they are told, one command at a time, and wait without work in between."""

import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import psutil  # type: ignore[import-untyped]

Commands = Mapping[str, Callable[[], Any]]

# They are forked from one process that has imported the libraries, which takes longer than most of what they are told.
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["benchmarks.on_cpu", "benchmarks.paper_rows"])


class Ranks:
    """The ranks of one run on the CPU, of one thread each unless they say otherwise."""

    def __init__(
        self,
        commands: Callable[..., Commands],
        arguments: tuple[Any, ...],
        num_ranks: int,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start them.

        Args:
            commands: Of a module's top; called in each rank, returns what it can be told.
            arguments: Of that function.
            num_ranks: That they are.
            environment: Variables besides those of this process.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._name = f"{commands.__module__} {arguments}"
        self._files = tempfile.TemporaryDirectory()
        self._outputs = [Path(self._files.name) / str(rank) for rank in range(num_ranks)]
        self._processes, self._connections = [], []
        places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(num_ranks)}
        for rank, output in enumerate(self._outputs):
            variables = {**(environment or {}), **places, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            ours, theirs = _forks.Pipe()
            process = _forks.Process(target=_serve, args=(theirs, output, variables, commands, arguments), daemon=True)
            process.start()
            theirs.close()  # so that ours is at its end when the rank is
            self._processes.append(process)
            self._connections.append(ours)

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
        for connection in self._connections:
            try:
                connection.send(command)
            except BrokenPipeError:
                self._fail()

    def answers(self) -> list[Any]:
        """Wait for what every rank was told last.

        Raises:
            RuntimeError: If a rank ends instead.
        """
        try:
            return [connection.recv() for connection in self._connections]
        except EOFError:
            self._fail()

    def cpu_seconds(self) -> float:
        """Return the processor time that the ranks have taken so far."""
        times = [psutil.Process(process.pid).cpu_times() for process in self._processes]
        return sum(time.user + time.system for time in times)

    def _fail(self) -> NoReturn:
        said = "\n".join(path.read_text()[-3000:] for path in self._outputs)
        raise RuntimeError(f"{self._name}: a rank ended.\n{said}")

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for connection in self._connections:
            connection.close()  # at which a rank ends
        for process in self._processes:
            if error is not None:
                process.kill()
            process.join()
        self._files.cleanup()


def _serve(
    connection: Connection,
    output: Path,
    variables: Mapping[str, str],
    commands: Callable[..., Commands],
    arguments: tuple[Any, ...],
) -> None:
    """Be a rank: do what is told, until the connection closes."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.environ.update(variables)
    known = commands(*arguments)
    while True:
        try:
            command = connection.recv()
        except EOFError:
            return
        connection.send(known[command]())
