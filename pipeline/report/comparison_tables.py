"""The tables that set a run beside others: what an audit found, and the paper's results."""

from collections.abc import Sequence
from typing import Any

from pipeline.report.paper import RESULTS
from pipeline.report.run import Run, number
from pipeline.report.summary import Summary, percent
from pipeline.report.table import UNKNOWN, Table, decimal, interval


def audit_tables(name: str, audit: dict[str, Any]) -> list[Table]:
    """Return what ``audit.json`` holds as tables."""
    leak = audit["leak"]
    tables = [
        Table(
            f"{name}: {audit['model']} on {audit['num_examples']:,} unseen rows of {audit['data']}",
            ("question", "found", "95 % interval"),
            (
                ("accuracy", percent(audit["accuracy"]), interval(audit["confidence_interval"])),
                (
                    "rows with CoT tokens written",
                    f"{leak['num_rows_with_cot']:,} ({percent(leak['share_with_cot'])})",
                    interval(leak["confidence_interval"]),
                ),
                ("CoT tokens written, mean", decimal(leak["mean_cot_tokens"], 2), ""),
                ("CoT tokens written, most", str(leak["max_cot_tokens"]), ""),
            ),
        )
    ]
    groups = [(kind.replace("_", " "), rows) for kind, rows in audit.get("difficulty", {}).items()]
    groups.append(("unlike the training rows", audit.get("out_of_distribution", [])))
    rows = [
        (
            f"{kind}: {row['value']}",
            f"{row['num_examples']:,}",
            f"{row['num_correct']:,}",
            percent(row["accuracy"]),
            interval(row["confidence_interval"]),
        )
        for kind, found in groups
        for row in found
    ]
    if rows:
        headings = ("rows of", "rows", "right", "accuracy", "95 % interval")
        tables.append(Table(f"{name}: accuracy by kind of row", headings, tuple(rows)))
    if audit.get("comparisons"):
        tables.append(
            Table(
                f"{name}: against other models on the same rows",
                ("model", "accuracy", "95 % interval", "right here only", "right there only", "p (McNemar)"),
                tuple(
                    (
                        f"{row['name'].replace('_', ' ')}: {row['model']}",
                        percent(row["accuracy"]),
                        interval(row["confidence_interval"]),
                        f"{row['only_model']:,}",
                        f"{row['only_other']:,}",
                        f"{row['p_value']:.2g}" if row["p_value"] >= 0.001 else "< 0.001",
                    )
                    for row in audit["comparisons"]
                ),
            )
        )
    return tables


def paper_table(summaries: Sequence[Summary]) -> Table:
    """Return the paper's results, and under them the runs of this page."""

    def share(value: float | None) -> str:
        return UNKNOWN if value is None else percent(value)

    rows = [
        (
            f"paper: {result.task}",
            result.model,
            UNKNOWN if result.cot_tokens is None else str(result.cot_tokens),
            share(result.no_cot),
            share(result.internalized),
            share(result.explicit_cot),
            UNKNOWN if result.explicit_speed is None else f"{result.explicit_speed:.2f}",
            result.note,
        )
        for result in RESULTS
    ]
    for summary in summaries:
        kind = summary.run.setting("schedule.kind")
        latest = summary.kept or summary.final
        accuracy = share(latest.accuracy if latest else None)
        ends = [row for row in summary.run.evaluations if row["num_removed"] == 0]
        explicit = share(ends[-1]["accuracy"] if ends else None)
        rows.append(
            (
                f"here: {summary.name}",
                summary.model_text,
                decimal(number((summary.run.model or {}).get("longest_cot")), 0),
                accuracy if kind == "no_cot" else UNKNOWN,
                accuracy if kind not in ("no_cot", "explicit_cot") else UNKNOWN,
                explicit if kind != "no_cot" else UNKNOWN,
                _explicit_speed(summary.run),
                "" if kind in ("no_cot", "explicit_cot") or latest is None else f"{latest.num_removed} removed",
            )
        )
    return Table(
        "The paper's accuracies, and the validation accuracies of the runs on this page",
        (
            "task or run",
            "model",
            "CoT tokens",
            "No CoT",
            "internalized",
            "explicit CoT",
            "speed of explicit CoT",
            "note",
        ),
        tuple(rows),
        frozenset({1, 7}),
    )


def _explicit_speed(run: Run) -> str:
    """Return explicit CoT's speed where everything removed is 1, as far as ``tacit frontier`` has measured both."""
    points = (run.frontier or {}).get("points", [])
    if not points or points[0]["num_removed"] != 0 or not points[-1].get("removes_all"):
        return UNKNOWN
    return f"{points[0]['examples_per_second'] / points[-1]['examples_per_second']:.2f}"
