"""What the page shows, what it asks, and where it is served; `tests/browser` opens it."""

import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.answering import Answer
from pipeline.errors import UserError
from pipeline.web import bind, build_page, url_of
from pipeline.web import stages as web_stages
from pipeline.web.html import show_answer, show_bars, show_fault
from pipeline.web.stages import MOST_IN_MEMORY, Stages

EVIL = "<img src=x onerror=alert(1)>${1+1}{{value}}"
ESCAPED = "&lt;img src=x onerror=alert(1)&gt;"


def answer_of(shown: str, milliseconds: float = 4.0, expected: int | None = None) -> Answer:
    number = int(shown) if shown.isdigit() else None
    return Answer("12 * 34", "2 1 * 4 3", "7 8", shown, number, expected, 9, 2, milliseconds)


def test_texts_of_users_and_models_are_escaped() -> None:
    answer = Answer(EVIL, EVIL + "2", EVIL, EVIL, None, None, 1, 1, 1.0)
    for shown in (show_answer(answer, EVIL), show_bars({0: answer}, [EVIL]), show_fault(EVIL)):
        assert "<img" not in shown and ESCAPED in shown
        assert "${" not in shown and "{{" not in shown  # the page's components are templates


def test_right_and_wrong_are_words() -> None:
    assert "✓ right" in show_answer(answer_of("408", expected=408), "s")
    assert "✗ wrong: it is 408" in show_answer(answer_of("409", expected=408), "s")
    assert "right" not in show_answer(answer_of("408"), "s")


def test_bars_are_as_long_as_the_answers_took() -> None:
    table = show_bars({2: answer_of("5", 20.0), 0: answer_of("6", 5.0)}, ["zero", "one", "two"])
    assert table.index("zero") < table.index("two") and "one" not in table
    assert table.index("width: 25.0%") < table.index("width: 100.0%")
    assert show_bars({}, ["zero"]) == ""


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of models as they are loaded; each answers with its folder's name."""
    folders: list[Path] = []

    class FakeAnswerer:
        def __init__(self, folder: Path) -> None:
            folders.append(folder)
            self.folder = folder

        def answer(self, question: str, task: str) -> Answer:
            return answer_of(f"{self.folder.name} {question} {task}")

    monkeypatch.setattr(web_stages, "Answerer", FakeAnswerer)
    monkeypatch.setattr(web_stages, "_models_of", lambda path: [path])
    monkeypatch.setattr(web_stages, "_name", lambda folder: folder.name)
    return folders


def test_models_are_loaded_when_asked_and_a_few_are_kept(loaded: list[Path]) -> None:
    stages = Stages([Path(str(number)) for number in range(MOST_IN_MEMORY + 1)], "text")
    assert loaded == []
    assert [stages.answer(number, "q").answer for number in (1, 2, 1)] == ["1 q text", "2 q text", "1 q text"]
    assert loaded == [Path("1"), Path("2")]
    for number in range(MOST_IN_MEMORY + 1):
        stages.answer(number, "q")
    del loaded[:]
    stages.answer(0, "q")
    assert loaded == [Path("0")]  # it had to go


def test_examples_are_the_runs_own_in_plain_form(tmp_path: Path, loaded: list[Path]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    assert Stages([folder]).examples() == []
    (tmp_path / "recipe.yaml").touch()
    assert Stages([folder]).examples() == []
    rows = '{"question": "2 1 * 4 3"}\n{"question": "2 1 * 4 3"}\n{"question": "how?"}\n'
    (tmp_path / "samples.jsonl").write_text(rows)
    assert Stages([folder]).examples() == ["12 * 34", "how?"]
    assert Stages([folder], "text").examples() == ["2 1 * 4 3", "how?"]
    (tmp_path / "samples.jsonl").write_text('{"question": "2 1')  # as a cut run may leave it
    assert Stages([folder]).examples() == []


def test_a_taken_port_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UserError, match=f"--port {port}: cannot be served on .*in use.*; choose another"
        ) as refusal:
            bind("127.0.0.1", port)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.1", 70000), ("127.0.0.1", -1), ("256.1.1.1", 0), ("192.0.2.1", 0)]
)
def test_an_address_that_is_not_this_machines_is_refused(host: str, port: int) -> None:
    with pytest.raises(UserError, match=f"--host {host} --port {port}: cannot be served on"):
        bind(host, port)


def test_a_free_port_is_found_and_named() -> None:
    with bind("127.0.0.1", 0) as listening:
        assert url_of(listening) == f"http://127.0.0.1:{listening.getsockname()[1]}"
    assert url_of(cast(Any, SimpleNamespace(getsockname=lambda: ("::1", 80, 0, 0)))) == "http://[::1]:80"


def test_a_missing_gradio_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch, loaded: list[Path]) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match="pip install gradio"):
        build_page(Stages([Path("0")]))


@pytest.mark.slow  # so that `make test-slow`, which installs gradio, runs it
def test_the_page_calls_nobody(loaded: list[Path]) -> None:
    pytest.importorskip("gradio")
    page = build_page(Stages([Path("0"), Path("1")]))
    assert not page.analytics_enabled
    assert page.title == "Tacit: ask a model"
