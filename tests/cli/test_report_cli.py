"""`tacit report` through the shell: the page's form, escaping, files, overlays, watching."""

import json
import signal
import time
from pathlib import Path

import pytest
from filelock import FileLock

from tests.forked import Command, tacit
from tests.html_page import Page, page_of
from tests.report_run import QUESTION, write_rows, write_run

REFRESH = '<meta http-equiv="refresh"'
SECONDS = 60


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with all that a report can tell of; one that went back a stage."""
    folder = write_run(tmp_path_factory.mktemp("full") / "_run$1", (0, 1, 0, 1, 2, 3), frontier=True, audit=True)
    finished = tacit("report", folder)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    assert finished.stdout == f"Wrote {folder}/report.html, and 6 figures to {folder}/report_figures.\n"
    return folder


def test_the_page_is_whole_and_its_parts_are_named(full: Path) -> None:
    text = (full / "report.html").read_text(encoding="utf-8")
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    page = Page(text)
    assert {name: page.count(name) for name in ("title", "h1", "header", "nav", "main", "footer")} == dict.fromkeys(
        ("title", "h1", "header", "nav", "main", "footer"), 1
    )
    levels = [int(tag[1]) for tag, _ in page.tags if tag in {"h1", "h2", "h3", "h4"}]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    ids = list(page.attributes("id"))
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.attributes("href") if link.startswith("#")} <= set(ids)
    assert {name for names in page.attributes("aria-labelledby") for name in names.split()} <= set(ids)
    assert page.count("svg") == page.count("figure") == page.count("figcaption") == 6
    assert all(attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg")
    assert page.count("table") == page.count("caption")
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in page.tags if tag == "th")
    assert next(attributes for tag, attributes in page.tags if tag == "a")["href"] == "#main"


def test_the_page_needs_nothing_else(full: Path) -> None:
    page = page_of(full / "report.html")
    links = [*page.attributes("href"), *page.attributes("src")]
    assert [link for link in links if not link.startswith(("#", "data:"))] == []
    assert page.count("script") == page.count("iframe") == 0
    text = (full / "report.html").read_text(encoding="utf-8")
    assert "@import" not in text and "http://" not in text and "https://" not in text
    assert REFRESH not in text


def test_texts_of_a_run_come_out_as_text(full: Path) -> None:
    page = page_of(full / "report.html")
    assert QUESTION in page.texts
    assert "Report: _run$1" in page.texts


def test_figures_are_written_as_png_files(full: Path) -> None:
    files = sorted((full / "report_figures").iterdir())
    assert [path.stem for path in files] == ["accuracy", "frontier", "loss", "removal", "resets", "speed"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)


def test_the_page_tells_what_was_found(full: Path) -> None:
    text = " ".join(" ".join(page_of(full / "report.html").texts).split())
    assert "gpt2 from scratch (2 layers, width 64) was trained on rows/train.txt on the adaptive schedule" in text
    assert "_run$1: stop at 2 removed (99.2 %) – the fastest whose accuracy is within one point" in text
    assert "every 10 steps" in text  # the resolution of the reset telemetry
    assert "11x11 multiplication" in text and "73.9 %" in text
    assert "Yes, as far as these rows tell." in text and "2 carries" in text and "< 0.001" in text
    assert "✗ wrong" in text and "wrong: 5" in text
    assert "1 stages collapsed, 1 steps left out" in text


def test_several_runs_lie_over_each_other_and_stand_side_by_side(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a" / "run", frontier=True)
    second = write_run(tmp_path / "b" / "run", (3,), kind="no_cot", has_samples=False)
    finished = tacit(
        "report",
        first,
        second,
        "--output",
        tmp_path / "out" / "both.html",
        "--figures",
        tmp_path / "pictures",
        "--json",
    )
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    assert result["report"] == str(tmp_path / "out" / "both.html")
    assert all(Path(path).is_file() and Path(path).parent == tmp_path / "pictures" for path in result["figures"])
    a, b = result["runs"]
    assert (a["run"], a["num_steps"], a["num_removed"], a["num_resets"]) == ("a/run", 160, 3, 3)
    assert a["accuracy"] == pytest.approx(5 / 6) and a["recommended"]["num_removed"] == 2
    assert (a["num_collapses"], a["num_nonfinite"], a["num_checkpoints"], a["is_running"]) == (1, 1, 4, False)
    assert (b["run"], b["num_resets"], b["recommended"]) == ("b/run", 0, None)
    page = page_of(tmp_path / "out" / "both.html")
    headings = [attributes for tag, attributes in page.tags if tag == "th" and attributes.get("scope") == "col"]
    assert len(headings) > 2
    for name in ("a/run", "b/run"):
        assert page.texts.count(name) >= 3  # the table, and the legends of figures
    assert "resets of a/run" in page.texts
    assert any("b/run has no measured frontier" in text for text in page.texts)


@pytest.mark.parametrize(
    ("removed", "kind", "rows"),
    [
        ((0,), "explicit_cot", None),
        ((3,), "no_cot", None),
        ((0, 1), "fixed", 4),  # before the first evaluation
        ((0, 1), "fixed", 0),
    ],
)
def test_runs_of_one_stage_and_runs_that_have_just_begun_have_a_page(
    tmp_path: Path, removed: tuple[int, ...], kind: str, rows: int | None
) -> None:
    folder = write_run(tmp_path / "run", removed, kind=kind, has_samples=rows is None, has_model=rows is None)
    if rows is not None:
        lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        (folder / "metrics.jsonl").write_text("".join(lines[:rows]) + '{"half a ro')
    finished = tacit("report", folder)
    assert (finished.returncode, finished.stderr) == (0, "")
    page = page_of(folder / "report.html")
    assert page.count("h1") == 1
    assert any("No optimizer reset so far." in text for text in page.texts)


def test_only_the_metrics_are_needed(tmp_path: Path) -> None:
    row = {"kind": "evaluation", "step": 5, "stage": 0, "num_removed": 0, "accuracy": 1}
    write_rows(tmp_path / "metrics.jsonl", [row])
    finished = tacit("report", tmp_path, "--json")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["runs"][0]["accuracy"] == 1


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    finished = tacit("report", tmp_path)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith(f"tacit: error: {tmp_path}: holds no metrics.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_run_behind_watch_is_not_taken_for_seconds(tmp_path: Path) -> None:
    finished = tacit("report", write_run(tmp_path / "run"), "--watch", "runs/other")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert "--watch (runs/other) must be whole seconds" in finished.stderr


@pytest.mark.parametrize("how", ["the run ends", "Ctrl-C"])
def test_a_watched_page_reloads_until_the_run_ends_or_somebody_stops_it(tmp_path: Path, how: str) -> None:
    folder = write_run(tmp_path / "run")
    page, lock = folder / "report.html", FileLock(folder / ".lock")
    stdout, stderr = tmp_path / "stdout", tmp_path / "stderr"
    with lock:
        command = Command("report", folder, "--watch", 1, stdout=stdout, stderr=stderr)
        try:
            end = time.monotonic() + SECONDS
            while not stderr.exists() or "\n" not in stderr.read_text():
                assert time.monotonic() < end and command.poll() is None
                time.sleep(0.05)
            assert f"{page}: written (run at step 160); again in 1 s" in stderr.read_text()
            assert f'{REFRESH} content="1">' in page.read_text()
            if how == "Ctrl-C":
                time.sleep(0.3)
                command.send_signal(signal.SIGINT)
            else:
                lock.release()
            assert command.wait(SECONDS) == 0
        finally:
            command.kill()
    assert stdout.read_text().startswith(f"Wrote {page}")
    assert REFRESH not in page.read_text()


def test_watching_a_run_that_has_ended_writes_once(tmp_path: Path) -> None:
    finished = tacit("report", write_run(tmp_path / "run"), "--watch")
    assert finished.returncode == 0
    assert finished.stderr.count("\n") == 1 and "no run is running any more" in finished.stderr
