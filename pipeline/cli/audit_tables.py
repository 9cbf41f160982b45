"""An audit as tables and a verdict."""

from collections.abc import Iterable, Sequence

from rich.table import Column, Table

from pipeline.audit_report import AuditReport
from pipeline.cli.screen import compact_table, open_screen
from pipeline.difficulty import Group
from pipeline.scoring import ScoreReport
from pipeline.verdict import NAMES, verdict

PROPERTIES = {
    "digits": "digits of the numbers",
    "carries": "carries in the column sums",
    "cot_steps": "steps of the CoT",
    "cot_tokens": "tokens of the CoT",
    "answer_length": "characters of the answer",
}


def print_audit(report: AuditReport) -> None:
    """Print an audit for people: the verdict last."""
    console = open_screen()
    console.print(f"{report.model}: {report.score.num_examples:,} unseen questions from {report.data}")
    console.print(leak_table(report))
    varied = {name: groups for name, groups in report.difficulty.items() if len(groups) > 1}
    for name, groups in varied.items():
        console.print(group_table(PROPERTIES[name], groups))
    alike = [
        f"{PROPERTIES[name]} ({groups[0].value})" for name, groups in report.difficulty.items() if len(groups) == 1
    ]
    if alike:
        console.print(f"The same in every row: {', '.join(alike)}.", style="dim")
    if report.out_of_distribution:
        console.print(group_table("unlike those trained on", report.out_of_distribution))
    if report.comparisons:
        console.print(comparison_table(report))
    for note in report.notes:
        console.print(f"note: {note}", style="dim", soft_wrap=True)
    console.print()
    for sentence in verdict(report):
        console.print(sentence)


def leak_table(report: AuditReport) -> Table:
    """Return what was written beside the answer, in one line."""
    leak = report.leak.to_json()
    low, high = report.leak.confidence_interval
    line = (
        *_accuracy(report.score),
        f"{leak['mean_cot_tokens']:.2f}",
        f"{leak['max_cot_tokens']}",
        f"{leak['num_rows_with_cot']:,}",
        f"{100 * low:.1f}-{100 * high:.1f} %",
        f"{leak['mean_tokens_beyond']:.2f}",
    )
    headings = ("accuracy", "95 %", "CoT tokens", "at most", "rows with any", "95 %", "tokens beyond the answer")
    return _table(headings, [line])


def group_table(title: str, groups: Sequence[Group]) -> Table:
    """Return one line a group."""
    lines = [(group.value, f"{group.score.num_examples:,}", *_accuracy(group.score)) for group in groups]
    return _table((title, "rows", "accuracy", "95 %"), lines)


def comparison_table(report: AuditReport) -> Table:
    """Return the audited model and, one line each, what it is compared with on the same rows."""
    lines = [("this model", *_accuracy(report.score), "", "", "")]
    for other in report.comparisons:
        p_value = "< 0.001" if other.p_value < 0.001 else f"{other.p_value:.3f}"
        counts = f"{other.only_model:,}", f"{other.only_other:,}"
        lines.append((NAMES[other.name], *_accuracy(other.score), *counts, p_value))
    return _table(("on the same rows", "accuracy", "95 %", "only this right", "only that", "p"), lines)


def _accuracy(score: ScoreReport) -> tuple[str, str]:
    low, high = score.confidence_interval
    return f"{100 * score.accuracy:.1f} %", f"{100 * low:.1f}-{100 * high:.1f}"


def _table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
    first, *others = headings
    columns = (Column(heading, justify="right", overflow="fold") for heading in others)
    table = compact_table(Column(first, overflow="fold"), *columns)
    for line in lines:
        table.add_row(*line)
    return table
