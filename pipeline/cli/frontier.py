"""`tacit frontier`: accuracy and speed of every kept stage of a run."""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.table import Column, Table

from pipeline.cli.arguments import parse_options
from pipeline.cli.evaluation_options import (
    add_evaluation_options,
    check_counts,
    check_result_place,
    rows_of,
    start_ranks,
)
from pipeline.cli.local_ranks import is_first_rank
from pipeline.cli.screen import compact_table, figures, open_screen
from pipeline.frontier import TITLES, Frontier
from pipeline.manifest import write_text

FILE_NAME = "frontier.json"


def main(argv: Sequence[str]) -> int:
    """Evaluate a run's kept stages, write ``frontier.json`` and print a table, or JSON.

    Args:
        argv: Arguments after ``frontier``.

    Returns:
        0.

    Raises:
        UserError: If the run has kept no stage, or a model or the data cannot be read.
    """
    options = parse_options(_parser(), argv)
    check_counts(options)
    run_dir = Path(options.run)
    check_result_place(run_dir, FILE_NAME)
    with contextlib.redirect_stdout(sys.stderr):  # libraries log to stdout, which is for the result
        frontier = _measure(options, run_dir)
    if is_first_rank():
        write_text(run_dir / FILE_NAME, json.dumps(frontier.to_json(), indent=1) + "\n")
        _print(options, frontier)
    return 0


def _measure(options: Namespace, run_dir: Path) -> Frontier:
    from pipeline.audit_rows import check_unseen  # imports torch
    from pipeline.comparison import compare_in_pairs, frontier_points
    from pipeline.stage_registry import models_of_run

    models = models_of_run(run_dir)
    start_ranks(options.quiet)
    check_unseen(run_dir, models[0], rows_of(options), options.trust_remote_code)
    reports = compare_in_pairs(
        models,
        rows_of(options),
        num_examples=options.num_examples,
        num_timed=options.num_timed,
        batch_size=options.batch_size,
        one_at_a_time=options.one_at_a_time,
        verify=options.verify,
        trust_remote_code=options.trust_remote_code,
    )
    return Frontier(options.data, frontier_points(reports))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="tacit frontier",
        description="Accuracy and speed of every kept stage of a run, from explicit CoT to none, and the stages worth "
        f"choosing. Writes RUN/{FILE_NAME}.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", type=str, help="A run directory with kept stages (run.keep_stages, run.keep_every).")
    add_evaluation_options(parser)
    add("--num_timed", type=int, default=50, help="Rows timed at batch size 1, for each stage.")
    add(
        "--one_at_a_time",
        action="store_true",
        help="Keep one model in memory, not two that are timed in turns: for large models; noise of the machine shows.",
    )
    add("--json", action="store_true", help=f"Print what {FILE_NAME} holds.")
    return parser


def _print(options: Namespace, frontier: Frontier) -> None:
    if options.json:
        print(json.dumps(frontier.to_json()))
        return
    console = open_screen()
    console.print(f"{frontier.points[0].num_examples} unseen questions from {frontier.data}, greedy decoding")
    console.print(frontier_table(frontier))
    console.print(
        "95 %: interval of accuracy. CoT: tokens written. ms: an answer at batch size 1, each model timed "
        f"{'alone' if options.one_at_a_time else 'in turns with the first'}. speed-up: against the first. "
        f"batched: ex/s of the evaluation, batch size {options.batch_size}"
        f"{', verified by the reference answers' if options.verify else ''}.",
        style="dim",
    )
    for name, title in TITLES.items():
        number = getattr(frontier.operating_points, name)
        if number is not None:
            console.print(f"{title}: {frontier.points[number].model}", soft_wrap=True)


def frontier_table(frontier: Frontier) -> Table:
    """Return one line a stage, the operating points named."""
    chosen = frontier.operating_points
    headings = ("removed", "accuracy", "95 %", "CoT", "ms", "speed-up", "batched")
    table = compact_table(*figures(*headings), Column("", overflow="fold"))
    for number, point in enumerate(frontier.points):
        low, high = point.confidence_interval
        table.add_row(
            f"{point.num_removed}{' (all)' if point.removes_all else ''}",
            f"{100 * point.accuracy:.1f} %",
            f"{100 * low:.1f}-{100 * high:.1f}",
            f"{point.cot_tokens:.1f}",
            f"{point.latency_ms:.1f}",
            f"{point.speedup:.2f}x",
            f"{point.examples_per_second_batched:.0f}",
            ", ".join(title for name, title in TITLES.items() if getattr(chosen, name) == number),
        )
    return table
