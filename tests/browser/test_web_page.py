"""`tacit web` in a real browser: what it shows is what `tacit ask` says, and nothing goes elsewhere."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipeline.cli.main import main
from pipeline.train import train
from tests.tiny import ROOT, shell_environment, tiny_config

SECONDS = 120
QUESTION = "12 * 34"
SCREENSHOTS = os.environ.get("TACIT_SCREENSHOTS")  # a folder, for who wants to look
pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("gradio", reason="gradio is not installed")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on products of two-digit numbers: stage 0 and the best model."""
    config = tiny_config(tmp_path_factory.mktemp("web"), run__keep_stages=[0])
    train(config)
    return Path(config.run.output_dir)


@pytest.fixture(scope="module")
def server(run_dir: Path) -> Iterator[str]:
    """The page's address; at the end Ctrl-C must end the server with 0."""
    command = [sys.executable, "-m", "pipeline", "web", str(run_dir), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, env=shell_environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[0]
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()


class Visit:
    """The page, opened, and what the browser complained of and asked for meanwhile."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.complaints: list[str] = []
        self.hosts: set[str | None] = set()
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(1000 * SECONDS)
        self.page.on("console", lambda message: self._hear(message.type, message.text))
        self.page.on("pageerror", lambda error: self._hear("error", str(error)))
        self.page.on("request", lambda request: self._see(request.url))
        self.page.goto(address)
        self.question = self.page.get_by_label("Question")
        self.question.wait_for()

    def ask(self, question: str, *, button: str = "Ask") -> None:
        """Type a question and press a button."""
        self.question.fill(question)
        self.page.get_by_role("button", name=button, exact=True).click()

    def answer(self) -> str:
        """Return the text of the answer once it is there."""
        self.page.locator("#answer dl").wait_for()
        return self.page.locator("#answer").inner_text()

    def row(self, stage: str) -> list[str]:
        """Return the cells of a stage in the table of times once they are there."""
        row = self.page.get_by_role("row").filter(has=self.page.get_by_role("rowheader", name=stage))
        row.wait_for()
        return row.get_by_role("cell").all_inner_texts()

    def keep(self, name: str) -> None:
        """Take a picture, if that is wanted."""
        if SCREENSHOTS:
            self.page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=True)

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def _see(self, url: str) -> None:
        if urlsplit(url).scheme not in ("data", "blob"):
            self.hosts.add(urlsplit(url).hostname)


@pytest.fixture
def visit(browser: Any, server: str) -> Iterator[Visit]:
    """A desktop browser on the page."""
    visit = Visit(browser, server, viewport={"width": 1280, "height": 900})
    yield visit
    visit.page.close()


def told_by_ask(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["ask", str(folder), "--question", QUESTION, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_page_answers_as_ask_does_at_every_stage(
    visit: Visit, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    visit.keep("empty")
    for stage, folder in ((1, run_dir / "model"), (0, run_dir / "stages" / "removed_0000")):
        slider = visit.page.get_by_role("slider")
        slider.fill(str(stage))
        name = "all CoT removed" if stage else "0 CoT tokens removed"
        playwright.expect(visit.page.locator("#stage-name")).to_have_text(name)
        visit.ask(QUESTION)
        expected = told_by_ask(folder, capsys)
        shown = str(expected["number"]) if expected["number"] is not None else expected["answer"]
        answer, tokens, _ = visit.row(name)
        assert tokens == str(expected["num_tokens"])
        verdict = "✓ right" if expected["correct"] else "✗ wrong"
        assert " ".join(answer.split()) == f"{shown} {verdict}"
        playwright.expect(visit.page.locator("#answer")).to_contain_text(f"Stage{name}")
        assert (expected["cot"] or "none") in visit.answer()
        visit.keep(f"stage_{stage}")
    assert visit.complaints == []
    assert visit.hosts == {"127.0.0.1"}


def test_every_stage_is_asked_at_once_and_another_question_begins_anew(visit: Visit) -> None:
    visit.ask(QUESTION, button="Ask every stage")
    assert float(visit.row("0 CoT tokens removed")[2]) > 0
    assert float(visit.row("all CoT removed")[2]) > 0
    visit.keep("every_stage")
    visit.ask("56 * 78")
    playwright.expect(visit.page.locator("#bars caption")).to_have_text("Time to answer 56 * 78")
    assert visit.page.locator("#bars tbody tr").count() == 1


def test_the_keyboard_is_enough_and_an_example_can_be_taken(visit: Visit) -> None:
    focus = "document.activeElement.tagName"
    assert visit.page.evaluate(focus) == "TEXTAREA"  # one can type at once
    example = visit.page.get_by_role("button", name=re.compile(r"^\d\d \* \d\d$")).first
    text = example.inner_text()
    example.focus()
    visit.page.keyboard.press("Enter")
    playwright.expect(visit.question).to_have_value(text)
    visit.page.get_by_role("slider").focus()
    visit.page.keyboard.press("ArrowLeft")
    playwright.expect(visit.page.locator("#stage-name")).to_have_text("0 CoT tokens removed")
    visit.question.focus()
    visit.page.keyboard.press("Enter")
    assert "0 CoT tokens removed" in visit.answer()


def test_faults_and_markup_are_shown_as_text(visit: Visit) -> None:
    evil = "<img src=x onerror=alert(1)> ${1+1} {{value}}"
    visit.ask(evil)
    fault = visit.page.locator("#answer .fault")
    playwright.expect(fault).to_contain_text("'<img', 'src=x', 'onerror=alert(1)>', '${1+1}', '{{value}}';")
    assert visit.page.locator("#answer img").count() == 0
    visit.keep("fault")
    visit.ask("")
    playwright.expect(fault).to_have_text("question is empty; write one.")
    assert visit.complaints == []


def test_every_control_has_a_name_and_news_are_announced(visit: Visit) -> None:
    nameless = """[...document.querySelectorAll("input, textarea, button, [role=slider]")]
        .filter((element) => element.checkVisibility())
        .filter((element) => !(element.getAttribute("aria-label") || element.getAttribute("aria-labelledby") ||
            element.labels?.length || element.innerText?.trim()))
        .map((element) => element.outerHTML)"""
    visit.page.wait_for_function(f"{nameless}.length === 0")  # Gradio writes the examples' texts a little later
    for place in ("answer", "stage-name"):
        assert visit.page.locator(f"#{place}[aria-live=polite], #{place} [aria-live=polite]").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_scrolling_to_the_side(browser: Any, server: str, scheme: str) -> None:
    visit = Visit(browser, server, viewport={"width": 375, "height": 700}, color_scheme=scheme, is_mobile=True)
    visit.ask(QUESTION, button="Ask every stage")
    visit.row("all CoT removed")
    width = visit.page.evaluate("document.documentElement.scrollWidth")
    visit.keep(f"phone_{scheme}")
    visit.page.close()
    assert width <= 375
