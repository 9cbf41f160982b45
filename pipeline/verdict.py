"""What an audit's figures allow to be said, in words, and no more than that. Pure."""

from pipeline.audit_report import AuditReport, Comparison, OtherModel

SIGNIFICANT = 0.05
NAMES: dict[OtherModel, str] = {
    "no_cot": "No CoT",
    "explicit_cut_off": "explicit CoT made to answer at once",
    "explicit": "explicit CoT",
}
# By what the test says of the audited model: better than the other, worse, or neither shown.
MEANINGS: dict[OtherModel, tuple[str, str, str]] = {
    "no_cot": (
        "training on answers alone, as that model had it, does not explain it",
        "training on answers alone does more",
        "nothing shows that the CoT in training was of use",
    ),
    "explicit_cut_off": (
        "having learned the CoT does not explain it, its removal taught something",
        "the removal has cost what explicit CoT could do without writing",
        "nothing shows that the removal taught anything",
    ),
    "explicit": (
        "the removal has cost nothing on these rows",
        "the removal has cost accuracy",
        "no loss is shown, which is not to say that there is none",
    ),
}
BASELINES: tuple[OtherModel, ...] = ("no_cot", "explicit_cut_off")


def verdict(report: AuditReport) -> list[str]:
    """Return sentences, of which the first answers whether the reasoning is internalized.

    The answer is yes only where the model writes nothing but its answer, and is more accurate than both No CoT and
    explicit CoT made to answer at once, each by McNemar's exact test at 5 %. As all of it must hold, no correction for
    several tests is needed.
    """
    return [_answer(report), _written(report), *map(lambda other: _compared(report, other), report.comparisons)]


def _answer(report: AuditReport) -> str:
    found = {comparison.name: comparison for comparison in report.comparisons}
    not_better = [name for name in BASELINES if name in found and _outcome(report, found[name]) != 0]
    missing = [name for name in BASELINES if name not in found]
    if not report.removes_all:
        return f"Not in full: {report.num_removed} CoT units are removed, and the model is meant to write the others."
    if _writes(report):
        return "Not in full: some rows have more written than the answer."
    if not_better:
        return f"Not shown: the model is not more accurate than {' and '.join(NAMES[name] for name in not_better)}."
    if missing:
        return f"Open: nothing was compared with {' and '.join(NAMES[name] for name in missing)}."
    return (
        "Yes, as far as these rows tell: the model writes nothing but its answer, and neither baseline answers as "
        "well. How it computes the answer they do not tell."
    )


def _written(report: AuditReport) -> str:
    leak, num_rows = report.leak, report.score.num_examples
    low, high = leak.confidence_interval
    if leak.num_rows_with_cot:
        text = (
            f"It wrote CoT on {leak.num_rows_with_cot:,} of {num_rows:,} rows "
            f"(95 %: {100 * low:.1f} to {100 * high:.1f} %): those answers may rest on it."
        )
    else:
        text = f"It wrote no CoT on any of {num_rows:,} rows (95 %: on less than {100 * high:.2g} % of all such rows)."
    if leak.num_right_rows_beyond:
        text += f" {leak.num_right_rows_beyond:,} right answers take more tokens than the reference, and may hold some."
    return text


def _compared(report: AuditReport, other: Comparison) -> str:
    outcome = _outcome(report, other)
    beginning = ("More accurate than", "Less accurate than", "No difference shown to")[outcome]
    p_value = "p < 0.001" if other.p_value < 0.001 else f"p = {other.p_value:.2g}"
    # What was written may be why: then the figures alone are told.
    meaning = "" if _writes(report) else f": {MEANINGS[other.name][outcome]}"
    return (
        f"{beginning} {NAMES[other.name]} ({100 * report.score.accuracy:.1f} against "
        f"{100 * other.score.accuracy:.1f} %, {p_value}){meaning}."
    )


def _writes(report: AuditReport) -> bool:
    """Return whether right answers may rest on something that was written."""
    return bool(report.leak.num_rows_with_cot or report.leak.num_right_rows_beyond)


def _outcome(report: AuditReport, other: Comparison) -> int:
    """Return 0 if the audited model is better than another, 1 if it is worse, 2 if neither is shown."""
    if other.p_value >= SIGNIFICANT:
        return 2
    return 0 if other.only_model > other.only_other else 1
