"""`tacit report`: metrics of runs as one page, and its figures as PNG files."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from pipeline.cli.arguments import parse_options
from pipeline.cli.evaluation_options import check_result_file
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.report import Report

SECONDS = "30"


def main(argv: Sequence[str]) -> int:
    """Write the report and say where.

    Args:
        argv: Arguments after ``report``.

    Returns:
        0.

    Raises:
        UserError: If a folder is no run directory.
    """
    options = parse_options(_parser(), argv)
    seconds = _seconds(options.watch)
    report = _write(options, seconds)
    if options.json:
        print(json.dumps(report.to_json()))
    else:
        print(f"Wrote {report.page}, and {len(report.figures)} figures to {report.figures_dir}.")
    return 0


def _write(options: Namespace, seconds: int | None) -> "Report":
    from pipeline.report import watch, write_report  # imports what draws: not before the options are known to be right

    runs = [Path(run) for run in options.runs]
    page = Path(options.output) if options.output else runs[0] / "report.html"
    if page.suffix != ".html":
        raise UserError(f"--output ({page}): the page is HTML; let its name end in .html.")
    check_result_file(page)
    figures = Path(options.figures) if options.figures else page.with_name("report_figures")
    if figures.exists() and not figures.is_dir():
        raise UserError(f"--figures ({figures}) is a file; name a folder.")
    check_result_file(figures / "loss.png")
    if seconds is None:
        return write_report(runs, page, figures)
    return watch(runs, page, figures, seconds, lambda text: print(text, file=sys.stderr))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="tacit report",
        description="Write one page, which needs no network, about one run or several; and its figures as PNG files.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("runs", type=str, nargs="+", metavar="RUN", help="Run directories; several are drawn over each other.")
    add("--output", type=str, default=None, help="The page (default: report.html in the first run).")
    add("--figures", type=str, default=None, help="Folder of the PNG files (default: report_figures beside the page).")
    add(
        "--watch",
        type=str,
        nargs="?",
        const=SECONDS,
        default=None,
        metavar="SECONDS",
        help=f"Write it again every so many seconds ({SECONDS} if not said) while a run is running; the page reloads.",
    )
    add("--json", action="store_true", help="Print one JSON object: files, and figures of each run.")
    return parser


def _seconds(text: str | None) -> int | None:
    """Return the seconds of ``--watch``.

    Raises:
        UserError: If they are no whole number, such as a run directory that stands behind the option.
    """
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 86400:
        raise UserError(f"--watch ({text}) must be whole seconds from 1 to 86400; run directories stand before it.")
    return int(text)
