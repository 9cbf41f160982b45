"""`tacit audit`: is the reasoning of a model really internalized?"""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from pipeline.audit_report import AuditReport
from pipeline.cli.arguments import parse_options
from pipeline.cli.audit_tables import print_audit
from pipeline.cli.evaluation_options import (
    add_evaluation_options,
    check_counts,
    check_result_place,
    rows_of,
    start_ranks,
)
from pipeline.cli.local_ranks import is_first_rank
from pipeline.manifest import write_text
from pipeline.verdict import verdict

FILE_NAME = "audit.json"


def main(argv: Sequence[str]) -> int:
    """Audit, write ``audit.json`` and print tables, or JSON.

    Args:
        argv: Arguments after ``audit``.

    Returns:
        0.

    Raises:
        UserError: If a model or the data cannot be read, or no row is left.
    """
    options = parse_options(_parser(), argv)
    check_counts(options)
    place = Path(options.run)
    check_result_place(place, FILE_NAME)
    with contextlib.redirect_stdout(sys.stderr):  # libraries log to stdout, which is for the result
        report = _audit(options, place)
    if is_first_rank():
        result = {**report.to_json(), "verdict": verdict(report)}
        write_text(place / FILE_NAME, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        if options.json:
            print(json.dumps(result))
        else:
            print_audit(report)
    return 0


def _audit(options: Namespace, path: Path) -> AuditReport:
    from pipeline.audit import AuditSettings, audit  # imports torch

    start_ranks(options.quiet)
    settings = AuditSettings(
        rows_of(options),
        options.out_of_distribution,
        options.num_examples,
        options.batch_size,
        options.verify,
        options.trust_remote_code,
    )
    no_cot, explicit = (Path(given) if given else None for given in (options.no_cot, options.explicit))
    return audit(path, settings, no_cot, explicit)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="tacit audit",
        description="Is it really internalized? What a model writes before its answer, on which rows it fails, how it "
        f"does on rows unlike those trained on, and whether baselines explain its answers. Writes RUN/{FILE_NAME}.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", type=str, help="A run directory, whose model/ is audited, or a model folder.")
    add_evaluation_options(parser)
    add("--no_cot", type=str, default=None, help="Run or model trained without CoT for as many steps, to compare with.")
    add(
        "--explicit",
        type=str,
        default=None,
        help="Run or model of explicit CoT; the run's kept stage with 0 removed if not given.",
    )
    add(
        "--out_of_distribution",
        type=str,
        nargs="+",
        default=[],
        help="Files of rows unlike those trained on; for multiplication, other sizes are made as well.",
    )
    add("--json", action="store_true", help=f"Print what {FILE_NAME} holds.")
    return parser
