"""Puts figures, tables and words together into one page that needs nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.report import words
from pipeline.report.comparison_tables import audit_tables, paper_table
from pipeline.report.figure_style import drawing, look, to_svg
from pipeline.report.figures import accuracy_figure, loss_figure, removal_figure, reset_figure, speed_figure
from pipeline.report.frontier_figure import frontier_figure, validation_figure
from pipeline.report.resets import reset_telemetry
from pipeline.report.run import NUM_QUESTIONS
from pipeline.report.samples import NUM_FIRST, sample_questions
from pipeline.report.summary import Summary, percent
from pipeline.report.table import Table
from pipeline.report.tables import event_tables, frontier_table, metrics_table, reset_table, summary_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSS_FIELDS = {
    "loss": ("loss", 1.0, 4),
    "token accuracy (%)": ("token_accuracy", 100.0, 1),
    "learning rate x 1e6": ("lr", 1e6, 2),
    "gradient norm": ("grad_norm", 1.0, 3),
}
ACCURACY_FIELDS = {
    "accuracy (%)": ("accuracy", 100.0, 1),
    "rows": ("num_examples", 1.0, 0),
    "CoT tokens written": ("cot_tokens", 1.0, 1),
}
SPEED_FIELDS = {
    "tokens/s": ("tokens_per_second", 1.0, 0),
    "examples/s": ("examples_per_second", 1.0, 1),
    "MFU (%)": ("mfu", 100.0, 2),
    "memory (MiB)": ("memory_mib", 1.0, 0),
}


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure of the page."""

    name: str
    """Of the PNG file, too."""
    figure: "Figure"
    svg: str
    words: str
    """What it shows."""
    tables: tuple[Table, ...]
    """Its numbers."""


def draw(summaries: Sequence[Summary]) -> list[Drawing]:
    """Draw every figure for which there is data."""
    runs = [(summary.name, summary.run) for summary in summaries]
    measured = [summary for summary in summaries if summary.run.frontier is not None]
    others = [summary for summary in summaries if summary.run.frontier is None]
    other_runs = [(summary.name, summary.run) for summary in others]
    looks = {name: look(i) for i, (name, _) in enumerate(runs)}  # in every figure the same
    evaluated = metrics_table(runs, "evaluations", ACCURACY_FIELDS)
    resets = [(name, reset_telemetry(run.train, run.resets)) for name, run in runs]
    frontiers = [(name, looks[name], run.frontier) for name, run in runs if run.frontier is not None]
    plans: list[tuple[str, Callable[[], Figure | None], str, Sequence[Table]]] = [
        ("loss", lambda: loss_figure(runs), words.loss_words(runs), [metrics_table(runs, "train", LOSS_FIELDS)]),
        ("accuracy", lambda: accuracy_figure(runs), words.accuracy_words(runs), [evaluated]),
        ("removal", lambda: removal_figure(runs), words.removal_words(runs), [evaluated]),
        (
            "frontier",
            lambda: frontier_figure(frontiers) if frontiers else None,
            words.frontier_words(measured),
            [frontier_table(name, frontier) for name, _, frontier in frontiers],
        ),
        (
            "validation_frontier",
            lambda: validation_figure([(name, looks[name], run) for name, run in other_runs]),
            words.frontier_words(others),
            [metrics_table(other_runs, "evaluations", ACCURACY_FIELDS)] if others else [],
        ),
        (
            "resets",
            lambda: reset_figure([(name, looks[name], results) for name, results in resets]),
            words.reset_words(resets),
            [reset_table(name, results) for name, results in resets if results],
        ),
        (
            "speed",
            lambda: speed_figure(runs),
            words.speed_words(summaries),
            [metrics_table(runs, "train", SPEED_FIELDS)],
        ),
    ]
    drawings = []
    for name, make, text, tables in plans:
        with drawing():
            figure = make()
        if figure is not None:
            drawings.append(Drawing(name, figure, to_svg(figure, name, text), text, tuple(tables)))
    return drawings


def render(summaries: Sequence[Summary], drawings: Sequence[Drawing], reload_seconds: int | None) -> str:
    """Return the page as HTML.

    Args:
        summaries: The runs.
        drawings: Their figures.
        reload_seconds: After so many seconds the page loads itself again; None for a page that does not change.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names, rows and recipes are other people's texts
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    runs: list[dict[str, Any]] = [
        {
            "summary": summary,
            "run": summary.run,
            "questions": sample_questions(summary.run),
            "events": event_tables(summary.name, summary.run),
            "audit": audit_tables(summary.name, summary.run.audit) if summary.run.audit else [],
            "verdict": (summary.run.audit or {}).get("verdict", []),
            "notes": (summary.run.audit or {}).get("notes", []),
            "log_every": summary.run.setting("run.log_every"),
        }
        for summary in summaries
    ]
    return environment.get_template("page.html").render(
        runs=runs,
        drawings={drawing.name: drawing for drawing in drawings},
        summary_table=summary_table(summaries),
        paper_table=paper_table(summaries),
        reload_seconds=reload_seconds,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        num_first=NUM_FIRST,
        num_questions=NUM_QUESTIONS,
    )
