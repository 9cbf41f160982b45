"""`tacit preview`: training rows as the model will see them, before anything is trained."""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence

from pipeline.cli.arguments import split_options, whole_number
from pipeline.config import parse_command_line

SWITCHES = {
    "positions": "Show every token on a line of its own, with token id, position id and loss.",
    "json": "Print the preview as one JSON object, every token included.",
}


def main(argv: Sequence[str]) -> int:
    """Preview a recipe's rows and batches.

    Args:
        argv: Arguments after ``preview``.

    Returns:
        0.

    Raises:
        UserError: If recipe, data or tokenizer are at fault, or there is no such stage.
    """
    parser = _parser()
    if any(argument in ("-h", "--help") for argument in argv):
        parser.print_help()
        print("\nand the recipe with its settings:\n")
    options, rest = split_options(parser, argv, SWITCHES)
    num_rows, num_ranks = (whole_number(f"--{name}", getattr(options, name)) for name in ("rows", "ranks"))
    config, switches = parse_command_line(rest, "tacit preview", SWITCHES)
    with contextlib.redirect_stdout(sys.stderr):  # libraries log to stdout, which is for the result
        from pipeline.preview import make_preview  # imports torch: not before the recipe is known to be right

        preview = make_preview(config, num_rows, num_ranks, options.stages)
    if "json" in switches:
        print(json.dumps(preview.to_json()))
    else:
        from pipeline.cli.preview_text import print_preview

        print_preview(config, preview, "positions" in switches)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tacit preview",
        usage="tacit preview --config RECIPE [--section.field VALUE ...] [options]",
        description="Training rows as the model will see them at chosen stages, lengths, and how a global batch is "
        "laid out. Needs the rows and the tokenizer, no weights.",
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
    )
    add = parser.add_argument
    add("--rows", default="2", metavar="N", help="Rows to show, the first that the seed draws (default: 2).")
    add(
        "--stages",
        metavar="N,N,...",
        help="Stages to show, by number of removed units; `last` is the run's last (default: the first, those a "
        "quarter and half way through, and the last).",
    )
    add("--ranks", default="1", metavar="N", help="Ranks that share a global batch (default: 1).")
    return parser
