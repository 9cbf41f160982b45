"""The tables of a training: its figures, stages, resets and events."""

from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.report.analysis import spread
from pipeline.report.frontier_figure import point_names
from pipeline.report.resets import Reset
from pipeline.report.run import Row, Run, number
from pipeline.report.summary import Summary, percent
from pipeline.report.table import UNKNOWN, Table, decimal, figure, interval

MOST_ROWS = 200


def summary_table(summaries: Sequence[Summary]) -> Table:
    """Return the runs side by side."""

    def row(heading: str, cells: Iterable[Any]) -> tuple[str, ...]:
        return (heading, *(UNKNOWN if cell is None else str(cell) for cell in cells))

    finals, kept = [s.final for s in summaries], [s.kept for s in summaries]
    rows = [
        row("model", (s.model_text for s in summaries)),
        row("training rows", (s.run.setting("data.train") for s in summaries)),
        row("schedule", (s.run.setting("schedule.kind") for s in summaries)),
        row("seed", (s.run.setting("run.seed") for s in summaries)),
        row("state", ("running" if s.run.is_running else "not running" for s in summaries)),
        row("optimizer steps", (f"{s.run.last_step:,}" for s in summaries)),
        row("CoT units removed", (s.num_removed for s in summaries)),
        row("latest validation accuracy", (final and percent(final.accuracy) for final in finals)),
        row("95 % interval", (final and interval(final.confidence_interval) for final in finals)),
        row("CoT tokens written", (final and decimal(final.cot_tokens, 1) for final in finals)),
        row("model kept", (one and f"{percent(one.accuracy)}, step {one.step:,}" for one in kept)),
        row(
            "recommended stop",
            (s.recommended and f"{s.recommended.num_removed} removed" for s in summaries),
        ),
        row("resets", (len(s.run.resets) for s in summaries)),
        row("collapsed stages", (len(s.run.collapses) for s in summaries)),
        row("steps skipped", (len(s.run.nonfinite) for s in summaries)),
        row("tokens/s, median", (decimal(s.tokens_per_second, 0) for s in summaries)),
        row("MFU, median", (s.mfu if s.mfu is None else percent(s.mfu) for s in summaries)),
    ]
    return Table(
        "The runs side by side" if len(summaries) > 1 else "The run in figures",
        ("", *(s.name for s in summaries)),
        tuple(rows),
        frozenset(range(1, len(summaries) + 1)),
    )


def metrics_table(runs: Sequence[tuple[str, Run]], kind: str, fields: dict[str, tuple[str, float, int]]) -> Table:
    """Return rows of a kind as a table, evenly thinned where there are many.

    Args:
        runs: With their names.
        kind: ``train`` or ``evaluations``.
        fields: Heading of each column to the row's field, a factor, and the number of decimals.
    """
    cells = []
    most = max(2, MOST_ROWS // len(runs))
    is_thinned = False
    for name, run in runs:
        rows: Sequence[Row] = getattr(run, kind)
        is_thinned |= len(rows) > most
        for row in spread(rows, most):
            values = (number(row.get(field)) for field, _, _ in fields.values())
            shown = (
                decimal(None if value is None else factor * value, decimals)
                for value, (_, factor, decimals) in zip(values, fields.values(), strict=True)
            )
            cells.append((name, f"{row['step']:,}", str(row["num_removed"]), *shown))
    note = f"; {most} of the rows of a run, evenly taken" if is_thinned else ""
    return Table(f"Figures of the runs{note}", ("run", "step", "removed", *fields), tuple(cells))


def frontier_table(name: str, frontier: dict[str, Any]) -> Table:
    """Return one line a point."""
    rows = [
        (
            f"{point['num_removed']}{' (all)' if point.get('removes_all') else ''}",
            percent(point["accuracy"]),
            interval(point["confidence_interval"]),
            decimal(point["cot_tokens"], 1),
            decimal(point["latency_ms"], 1),
            f"{point['speedup']:.2f}x",
            ", ".join(point_names(frontier, k)),
        )
        for k, point in enumerate(frontier["points"])
    ]
    return Table(
        f"{name}: {frontier['num_examples']:,} unseen rows of {frontier['data']}, batch size 1",
        ("removed", "accuracy", "95 % interval", "CoT tokens written", "ms an answer", "speed-up", "worth choosing as"),
        tuple(rows),
        frozenset({6}),
    )


def reset_table(name: str, resets: Sequence[Reset]) -> Table:
    """Return one line a reset."""
    rows = [
        (
            f"{reset.step:,}",
            f"{UNKNOWN if reset.removed_before is None else reset.removed_before} to {reset.removed_after}",
            figure(reset.moment_norm),
            figure(reset.second_moment_norm),
            UNKNOWN if reset.loss_before is None else f"{figure(reset.loss_before)} (step {reset.loss_step:,})",
            figure(reset.loss_after),
            UNKNOWN if reset.bump is None else f"{reset.bump:+.3g}",
            f"not within {reset.num_steps_seen:,}" if reset.steps_to_recover is None else f"{reset.steps_to_recover:,}",
        )
        for reset in resets
    ]
    return Table(
        f"{name}: optimizer resets",
        (
            "first step after",
            "removed",
            "norm of first moments",
            "norm of second moments",
            "loss before",
            "loss after",
            "bump",
            "updates until back",
        ),
        tuple(rows),
    )


def event_tables(name: str, run: Run) -> list[Table]:
    """Return the tables of collapsed stages, skipped steps and checkpoints, those that have a row."""
    collapses = [
        (f"{row['step']:,}", str(row["stage"]), str(row["num_removed"]), *_losses(row, "loss_before", "loss"))
        for row in run.collapses
    ]
    skipped = [
        (
            f"{row['step']:,}",
            str(row["num_removed"]),
            *_losses(row, "loss", "grad_norm"),
            UNKNOWN if row.get("rolled_back_to") is None else f"step {row['rolled_back_to']}",
            ", ".join(map(str, row.get("rows", ())[:20])),
        )
        for row in run.nonfinite
    ]
    saved = [
        (
            f"{row['step']:,}",
            str(row["num_removed"]),
            decimal(number(row.get("seconds")), 1),
            "on request" if row.get("requested") else "by the recipe",
        )
        for row in spread(run.checkpoints, MOST_ROWS)
    ]
    tables = [
        Table(
            f"{name}: stages that collapsed",
            ("last step", "stage", "removed", "loss before", "loss at its end"),
            tuple(collapses),
        ),
        Table(
            f"{name}: steps left out, as loss or gradient was no number",
            ("step", "removed", "loss", "gradient norm", "rolled back to", "training rows of the batch"),
            tuple(skipped),
            frozenset({5}),
        ),
        Table(f"{name}: checkpoints", ("step", "removed", "seconds", "written"), tuple(saved), frozenset({3})),
    ]
    return [table for table in tables if table.rows]


def _losses(row: Row, *fields: str) -> list[str]:
    return [figure(number(row.get(field))) for field in fields]
