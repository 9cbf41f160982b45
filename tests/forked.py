"""`tacit` as a process of its own that has its libraries already: importing them takes longer than most commands.

One process imports them, with the first command, and is forked for each. What depends on the import itself wants a new
process: variables that a library reads then, and which libraries a command does without.
"""

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.cli.main import COMMANDS, entry
from tests.tiny import ROOT, shell_environment

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [
        *(f"pipeline.cli.{command}" for command in COMMANDS if command != "web"),
        *("pipeline.rehearsal", "pipeline.preview", "pipeline.comparison", "pipeline.audit", "pipeline.report"),
        *("pipeline.plan.from_data", "pipeline.plan.from_lengths", "pipeline.plan.measuring", "pipeline.doctor.checks"),
        *("pipeline.cli.preview_text", "pipeline.cli.plan_tables", "pipeline.export", "pipeline.answering"),
        *("transformers.models.gpt2.modeling_gpt2", "datasets", "peft", "matplotlib.figure", "jinja2"),
        "torch.utils.tensorboard",
    ]
)


def tacit(*arguments: object, timeout: float = 180, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the project's folder.

    Args:
        arguments: Behind ``tacit``.
        timeout: In seconds; above it the test fails.
        variables: Of the environment, beside those of a user's shell.
    """
    argv = list(map(str, arguments))
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("stdout", "stderr")]
        process = _forks.Process(target=_run, args=(argv, shell_environment(**variables), outputs))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(argv, timeout)
        stdout, stderr = (path.read_text() for path in outputs)
        return subprocess.CompletedProcess(argv, process.exitcode, stdout, stderr)


def _run(argv: list[str], environment: dict[str, str], outputs: list[Path]) -> None:
    for descriptor, path in zip((1, 2), outputs, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["tacit", *argv]
    try:
        entry()
    finally:
        atexit._run_exitfuncs()  # a forked process ends without
