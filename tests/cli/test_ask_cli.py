"""`tacit ask` on the command line, from a file and at a pseudo-terminal; a tiny model answers, rightly or not."""

import io
import json
import os
import pty
import re
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.answer_lines import visible
from pipeline.cli.main import main
from pipeline.train import train
from tests.forked import Command, tacit
from tests.tiny import tiny_config

SECONDS = 90


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on products of two-digit numbers that has kept two stages."""
    config = tiny_config(tmp_path_factory.mktemp("ask"), run__keep_stages=[0, 2])
    train(config)
    return Path(config.run.output_dir)


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def ask(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["ask", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_questions_on_the_command_line(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = objects(ask(capsys, run_dir, "--json", "--question", "12 * 34", "9 8 * 7 6"))
    assert first["model"] == str(run_dir / "model")
    assert (first["question"], first["asked"], first["expected"]) == ("12 * 34", "2 1 * 4 3", 408)
    assert first["correct"] == (first["number"] == 408)
    assert first["num_tokens"] >= 1 and first["milliseconds"] > 0
    assert (second["asked"], second["expected"], second["correct"]) == ("9 8 * 7 6", None, None)


def test_two_models_side_by_side(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = (run_dir / "stages" / "removed_0000", "--compare", run_dir)
    (compared,) = objects(ask(capsys, *models, "--json", "--question", "12 * 34"))
    answers = compared["answers"]
    assert [answer["model"] for answer in answers] == [str(models[0]), str(run_dir / "model")]
    assert compared["speedup"] == pytest.approx(answers[0]["milliseconds"] / answers[1]["milliseconds"])
    table = ask(capsys, *models, "--question", "12 * 34")
    assert re.search(r"\(\d+\.\d\dx as fast\)", table)
    assert table.count("right") + table.count("wrong: it is 408") == 2


def test_lines_for_people_say_right_or_wrong_in_words(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ask(capsys, run_dir, "--question", "12 * 34")
    assert "\x1b" not in lines  # no colour where there is no terminal
    assert re.search(r"^  answer  .+$", lines, re.MULTILINE)
    cost = r"\d+ tokens?(, \d+ of them CoT)?, \d+\.\d ms"
    assert re.search(rf"^  (✓ right|✗ wrong: it is 408), {cost}$", lines, re.MULTILINE)


def test_a_pipe_is_read_line_by_line_and_faults_do_not_end_it(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("12 * 34\n\nhow many\n:quit\n56 * 78"))
    rows = objects(ask(capsys, run_dir, "--json"))
    assert [row["question"] for row in rows] == ["12 * 34", "", "how many", ":quit", "56 * 78"]
    assert ["error" in row for row in rows] == [False, True, True, True, False]  # all lines are questions


def test_lines_of_a_file(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "questions").write_bytes(b"12 * 34\n\xff\n")
    finished = tacit("ask", run_dir, stdin=tmp_path / "questions", timeout=SECONDS)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("12 * 34\n  asked   2 1 * 4 3\n")
    assert "tacit: error: question: not in the model's vocabulary: '�'" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--question", "12 * 34", "how many"], "not in the model's vocabulary"),
        (["--question", "12 + 34", "--task", "addition"], "three numbers or more"),
        (["--question", "12 * 34", "--task", "multiply"], "--task (multiply) must be one of auto, "),
        (["--compare", "nowhere", "--question", "1 * 2"], "nowhere: holds no model"),
    ],
)
def test_what_cannot_be_asked_ends_with_2(
    run_dir: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert main(["ask", str(run_dir), *arguments]) == 2
    assert told in capsys.readouterr().err


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert visible("a\x1b[31mb\rc\u202ed\n é→") == r"a\x1b[31mb\rc\u202ed\n é→"


class Terminal:
    """`tacit ask` behind a pseudo-terminal, as a person has it."""

    def __init__(self, *arguments: str | Path) -> None:
        self._file, self._other_end = pty.openpty()
        path = Path(os.ttyname(self._other_end))
        self._command = Command("ask", *arguments, stdin=path, stdout=path, stderr=path, TERM="xterm")
        self.shown = ""

    def wait_for(self, text: str) -> str:
        """Return what is shown until a text comes."""
        return self._read_until(lambda: text in self.shown, text)

    def type(self, keys: str) -> None:
        """Press keys."""
        self.shown = ""
        os.write(self._file, keys.encode())

    def end(self) -> int:
        """Wait for the end; returns the exit code."""
        code = self.ended_within(SECONDS)
        assert code is not None, f"does not end; shows {self.shown!r}"
        return code

    def ended_within(self, seconds: float) -> int | None:
        """Wait for so long; returns the exit code, or None if it has not ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (code := self._command.poll()) is not None:
                return code
            self._read(0.1)
        return None

    def close(self) -> None:
        """End it whatever it does."""
        self._command.kill()
        os.close(self._other_end)
        os.close(self._file)

    def _read_until(self, done: Any, text: str) -> str:
        deadline = time.monotonic() + SECONDS
        while not done():
            assert time.monotonic() < deadline, f"{text!r} does not come; shown is {self.shown!r}"
            self._read(0.1)
        return self.shown

    def _read(self, seconds: float) -> None:
        if select.select([self._file], [], [], seconds)[0]:
            self.shown += os.read(self._file, 65536).decode(errors="replace")


@pytest.fixture
def terminal(run_dir: Path) -> Iterator[Terminal]:
    """A session that waits for its first question."""
    session = Terminal(run_dir)
    try:
        session.wait_for("ask> ")
        yield session
    finally:
        session.close()


def test_a_session(terminal: Terminal) -> None:
    terminal.type("12 * 34\r")
    shown = terminal.wait_for("ask> ")
    assert "2 1 * 4 3" in shown and ("✓ right" in shown or "✗ wrong: it is 408" in shown)
    assert "\x1b[2m" in shown  # dim
    terminal.type("\x1b[A\x1b[D\x7f5\r")  # up fetches the question; its last digit but one becomes a 5
    assert "648" in terminal.wait_for("ask> ")
    for typed, answer in (
        ("how many", "not in the model's vocabulary"),
        ("", "is empty"),
        (":help", "Ctrl-D and Ctrl-C"),
        (":hlp", ":hlp: unknown command"),
    ):
        terminal.type(typed + "\r")
        assert answer in terminal.wait_for("ask> ")
    terminal.type(":quit\r")
    assert terminal.end() == 0


@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["Ctrl-C", "Ctrl-D"])
def test_a_session_ends_cleanly(terminal: Terminal, key: str) -> None:
    code = None
    for _ in range(10):  # an interrupt just when the prompt comes, before a line is waited for, can be lost
        terminal.type(key)
        if (code := terminal.ended_within(SECONDS / 10)) is not None:
            break
    assert code == 0
    assert "Traceback" not in terminal.shown and "interrupted" not in terminal.shown
