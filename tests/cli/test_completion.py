"""Completion of commands, options and settings, asked of a real bash."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.completion import SHELLS
from pipeline.cli.main import COMMANDS
from tests.tiny import ROOT

# What bash does at TAB: the words so far, the place of the one to be completed, then the function is called.
ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
$(complete -p tacit | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


def tacit(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    finished = tacit("--completion", "bash")
    assert (finished.returncode, finished.stderr) == (0, "")
    path = tmp_path_factory.mktemp("completion") / "tacit.bash"
    path.write_text(finished.stdout)
    return path


def ask(script: Path, line: str) -> list[str]:
    """Return what bash offers at the end of a line."""
    command = ["bash", "-c", ASK, "bash", str(script), *line.split(" ")]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (finished.returncode, finished.stderr) == (0, "")
    return finished.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("tacit tr", ["train"]),
        ("tacit --c", ["--completion"]),
        ("tacit --completion ", ["bash", "zsh", "fish"]),
        ("tacit evaluate --num_r", ["--num_removed"]),
        ("tacit evaluate --model recipes docs --num_r", ["--num_removed"]),  # behind an option of several values
        ("tacit evaluate --model recipes README", ["README.md"]),
        ("tacit score README", ["README.md"]),
        ("tacit export --dtype b", ["bfloat16"]),
        ("tacit train --config recipes/dem", ["recipes/demo.yaml"]),
        ("tacit train --config recipes/demo.yaml --removal.keep", ["--removal.keep_positions"]),
        ("tacit train --print_config --resu", ["--resume"]),
        ("tacit train --schedule.kind ", ["fixed", "adaptive", "explicit_cot", "no_cot"]),
        ("tacit plan --removal.keep_positions f", ["false"]),
        ("tacit plan --mf", ["--mfu"]),
        ("tacit preview --sta", ["--stages"]),
        ("tacit preview --schedule.ki", ["--schedule.kind"]),
        ("tacit data mul", ["multiplication"]),
        ("tacit data multiplication --dig", ["--digits"]),
        ("tacit train --optim.lr 1 tr", []),
    ],
)
def test_bash_offers(script: Path, line: str, offered: list[str]) -> None:
    assert ask(script, line) == offered


def test_every_command_is_offered_with_options_and_no_file_for_a_section(script: Path) -> None:
    assert ask(script, "tacit ") == list(COMMANDS)
    for name in COMMANDS:
        words = ask(script, f"tacit {name} -") if name != "data" else ask(script, "tacit data split -")
        assert "--help" in words
        assert len(words) > 2  # -h and --help are there without being asked for
        assert "--optim" not in words  # `--help` has it, and no command reads it


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_a_script_with_every_command(shell: str) -> None:
    finished = tacit("--completion", shell)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert [name for name in (*COMMANDS, "keep_positions", "multiplication") if name not in finished.stdout] == []


@pytest.mark.parametrize("arguments", [(), ("tcsh",), ("bash", "zsh")])
def test_another_shell_is_refused(arguments: tuple[str, ...]) -> None:
    finished = tacit("--completion", *arguments)
    assert (finished.returncode, finished.stdout) == (2, "")
    given = " ".join(arguments)
    assert finished.stderr == (
        f"tacit: error: --completion ({given}) must be one of bash, zsh, fish; write `tacit --completion bash`.\n"
    )


def test_the_help_mentions_it() -> None:
    assert "tacit --completion bash" in tacit("--help").stdout
