"""`tacit score`: accuracy of predictions in a file."""

import json
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from pipeline.cli.arguments import parse_options
from pipeline.scoring import score_file


def main(argv: Sequence[str]) -> int:
    """Score a JSONL file of ``prediction`` and ``answer`` and print the accuracy.

    Args:
        argv: Arguments after ``score``.

    Returns:
        0.

    Raises:
        UserError: If the file is missing or broken, or the rows are not of one evaluation.
    """
    parser = ArgumentParser(
        prog="tacit score",
        description="Print accuracy (exact match of extracted answers), number of rows, and Wilson's 95 % interval.",
        allow_abbrev=False,
    )
    parser.add_argument("file", type=str, help="JSONL rows with `prediction` and `answer`, both strings.")
    parser.add_argument(
        "--step", type=int, metavar="N", help="Score the rows of this evaluation alone; a run's samples.jsonl has many."
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object instead of a sentence.")
    options = parse_options(parser, argv)
    report = score_file(options.file, options.step)
    if options.json:
        print(json.dumps(report.to_json()))
    else:
        lower, upper = report.confidence_interval
        print(
            f"accuracy {report.accuracy:.4f} ({report.num_correct:,} of {report.num_examples:,} rows), "
            f"95 % interval {lower:.4f} to {upper:.4f}"
        )
    return 0
