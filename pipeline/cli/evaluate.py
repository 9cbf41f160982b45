"""`tacit evaluate`: accuracy and speed of saved models."""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from rich.table import Column, Table

from pipeline.cli.arguments import parse_options
from pipeline.cli.evaluation_options import (
    add_evaluation_options,
    check_counts,
    check_result_file,
    is_record_of_run,
    rows_of,
    start_ranks,
)
from pipeline.cli.local_ranks import is_first_rank
from pipeline.cli.screen import compact_table, figures, open_screen
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.comparison import ModelReport


def main(argv: Sequence[str]) -> int:
    """Evaluate and print one table, or JSON.

    Args:
        argv: Arguments after ``evaluate``.

    Returns:
        0.

    Raises:
        UserError: If a model or the data cannot be read.
    """
    options = parse_options(_parser(), argv)
    check_counts(options)
    if options.samples is not None:
        check_result_file(Path(options.samples))
        if Path(options.samples).resolve() == Path(options.data).resolve():
            raise UserError(f"--samples ({options.samples}) is the file of --data; name another.")
        if is_record_of_run(Path(options.samples)):
            raise UserError(f"--samples ({options.samples}) is the record of a run; name another file.")
    with contextlib.redirect_stdout(sys.stderr):  # libraries log to stdout, which is for the result
        reports = _evaluate(options)
    if is_first_rank():
        _write_samples(options, reports)
        _print(options, reports)
    return 0


def _evaluate(options: Namespace) -> list["ModelReport"]:
    from pipeline.comparison import compare_models  # imports torch
    from pipeline.stage_registry import model_folder

    start_ranks(options.quiet)
    return compare_models(
        [model_folder(Path(path)) for path in options.model],
        rows_of(options),
        num_removed=options.num_removed,
        num_examples=options.num_examples,
        num_timed=options.num_timed,
        batch_size=options.batch_size,
        verify=options.verify,
        trust_remote_code=options.trust_remote_code,
    )


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="tacit evaluate",
        description="Greedy exact match, CoT tokens written, and speed at batch size 1, of saved models.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--model",
        type=str,
        nargs="+",
        required=True,
        help="Model folders or run directories; speeds are compared to the first one's.",
    )
    add_evaluation_options(parser)
    add(
        "--num_removed",
        type=int,
        default=None,
        help="Removed CoT units at which to ask; the model's own if not given.",
    )
    add("--num_timed", type=int, default=50, help="Rows timed at batch size 1.")
    add("--samples", type=str, default=None, help="Write every row as answered to this JSONL file.")
    add("--json", action="store_true", help="Print JSON: an object for one model, a list for several.")
    return parser


def _write_samples(options: Namespace, reports: Sequence["ModelReport"]) -> None:
    if options.samples is None:
        return
    path = Path(options.samples)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for report in reports:
            for sample in report.evaluation.samples:
                file.write(json.dumps({"model": report.model, **sample.to_json()}, ensure_ascii=False) + "\n")


def _print(options: Namespace, reports: Sequence["ModelReport"]) -> None:
    rows = [report.to_json() for report in reports]
    if options.json:
        print(json.dumps(rows[0] if len(rows) == 1 else rows))
        return
    console = open_screen()
    console.print(f"{rows[0]['num_examples']} questions from {options.data}, greedy decoding")
    console.print(comparison_table(reports))
    console.print(
        "95 %: interval of accuracy. CoT: tokens written. ex/s: at batch size 1. speed-up: against the first model. "
        f"batched: ex/s of the evaluation, batch size {options.batch_size}"
        f"{', verified by the reference answers' if options.verify else ''}.",
        style="dim",
    )


def comparison_table(reports: Sequence["ModelReport"]) -> Table:
    """Return one line a model; speeds are compared to the first one's."""
    headings = ("accuracy", "95 %", "CoT", "ex/s", "speed-up", "batched")
    table = compact_table(Column("model", overflow="fold", ratio=1), *figures(*headings))
    for report in reports:
        low, high = report.evaluation.score.confidence_interval
        table.add_row(
            report.model,
            f"{100 * report.evaluation.accuracy:.1f} %",
            f"{100 * low:.1f}-{100 * high:.1f}",
            f"{report.evaluation.mean_cot_tokens:.1f}",
            f"{report.examples_per_second:.1f}",
            f"{report.examples_per_second / reports[0].examples_per_second:.2f}x",
            f"{report.examples_per_second_batched:.0f}",
        )
    return table
