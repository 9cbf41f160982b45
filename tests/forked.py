"""`tacit` as a process of its own that has its libraries already: importing them takes longer than most commands.

One process imports them, with the first command, and is forked for each. What depends on the import itself wants a new
process: variables that a library reads then, and which libraries a command does without.
"""

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.cli.main import COMMANDS, entry
from tests.tiny import ROOT, shell_environment

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *(f"pipeline.cli.{command}" for command in COMMANDS if command != "web"),
        *("pipeline.rehearsal", "pipeline.preview", "pipeline.comparison", "pipeline.audit", "pipeline.report"),
        *("pipeline.plan.from_data", "pipeline.plan.from_lengths", "pipeline.plan.measuring", "pipeline.doctor.checks"),
        *("pipeline.cli.preview_text", "pipeline.cli.plan_tables", "pipeline.export", "pipeline.answering"),
        *("transformers.models.gpt2.modeling_gpt2", "peft", "matplotlib.figure", "jinja2"),
        "torch.utils.tensorboard",
    ]
)


class Command:
    """A command that runs beside the test; it is told to stop and waited for as a ``subprocess.Popen`` is."""

    def __init__(
        self, *arguments: object, stdout: Path, stderr: Path, stdin: Path = Path(os.devnull), **variables: str
    ) -> None:
        """Start it in the project's folder.

        Args:
            arguments: Behind ``tacit``.
            stdout: Appended to, as ``stderr`` is; both may be one.
            stderr: As ``stdout``.
            stdin: What it reads. A terminal that is no session's yet becomes its own.
            variables: Of the environment, beside those of a user's shell.
        """
        self.args = list(map(str, arguments))
        files = (stdin, stdout, stderr)
        self._process = FORKS.Process(target=_run, args=(self.args, shell_environment(**variables), files))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, or None as long as it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, so many seconds at most; returns the exit code."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it whatever it does."""
        self.send_signal(signal.SIGKILL)


def tacit(
    *arguments: object, stdin: Path = Path(os.devnull), timeout: float = 180, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in the project's folder.

    Args:
        arguments: Behind ``tacit``.
        stdin: What it reads.
        timeout: In seconds; above it the test fails.
        variables: Of the environment, beside those of a user's shell.
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = {name: Path(folder) / name for name in ("stdout", "stderr")}
        command = Command(*arguments, stdin=stdin, **outputs, **variables)
        try:
            code = command.wait(timeout)
        finally:
            command.kill()
        said = {name: path.read_text() for name, path in outputs.items()}
        return subprocess.CompletedProcess(command.args, code, **said)


def _run(argv: list[str], environment: dict[str, str], files: tuple[Path, Path, Path]) -> None:
    os.setsid()  # so that a terminal among the files is its own, and Ctrl-C there reaches it
    for descriptor, path in enumerate(files):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), descriptor)
    sys.stdin = os.fdopen(0)  # a process of this kind has none otherwise
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["tacit", *argv]
    try:
        entry()
    finally:
        atexit._run_exitfuncs()  # a forked process ends without
