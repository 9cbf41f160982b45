"""Runs in, a page and PNG files out; once, or as often as a run that goes on asks for."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.manifest import write_text
from pipeline.report.figure_style import save_png
from pipeline.report.page import draw, render
from pipeline.report.run import read_run, run_names
from pipeline.report.summary import Summary, summarize


@dataclass(frozen=True, slots=True)
class Report:
    """What was written."""

    page: Path
    figures: tuple[Path, ...]
    figures_dir: Path
    summaries: tuple[Summary, ...]

    def to_json(self) -> dict[str, Any]:
        """Return files and figures as plain values."""
        return {
            "report": str(self.page),
            "figures": [str(path) for path in self.figures],
            "runs": [summary.to_json() for summary in self.summaries],
        }


def write_report(runs: Sequence[Path], page: Path, figures: Path, reload_seconds: int | None = None) -> Report:
    """Read runs, and write the page and its figures.

    Args:
        runs: Run directories, at least one.
        page: HTML file to write; its folder is made.
        figures: Folder of the PNG files; it is made.
        reload_seconds: The page loads itself again after so many seconds while one of the runs is running.

    Raises:
        UserError: If a folder is no run directory, or holds a file that is not what our commands write.
    """
    summaries = tuple(map(summarize, run_names(runs), map(read_run, runs)))
    is_running = any(summary.run.is_running for summary in summaries)
    drawings = draw(summaries)
    paths = []
    for drawing in drawings:
        paths.append(figures / f"{drawing.name}.png")
        save_png(drawing.figure, paths[-1])
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, render(summaries, drawings, reload_seconds if is_running else None))
    return Report(page, tuple(paths), figures, summaries)


def watch(runs: Sequence[Path], page: Path, figures: Path, seconds: int, tell: Callable[[str], None]) -> Report:
    """Write the report again and again until no run is running any more, or somebody presses Ctrl-C.

    Args:
        runs: Run directories.
        page: HTML file to write.
        figures: Folder of the PNG files.
        seconds: Between two writings.
        tell: Is told what happens.
    """
    try:
        while True:
            report = write_report(runs, page, figures, reload_seconds=seconds)
            if not any(summary.run.is_running for summary in report.summaries):
                tell(f"{page}: written; no run is running any more")
                return report
            steps = ", ".join(f"{summary.name} at step {summary.run.last_step:,}" for summary in report.summaries)
            tell(f"{page}: written ({steps}); again in {seconds} s, Ctrl-C ends")
            time.sleep(seconds)
    except KeyboardInterrupt:
        tell(f"{page}: written a last time, without reloading itself")
        return write_report(runs, page, figures)
