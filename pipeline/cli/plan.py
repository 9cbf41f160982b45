"""`tacit plan`: what a recipe will do and need, before a GPU is paid for."""

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.cli.arguments import split_options, whole_number
from pipeline.config import Config, parse_command_line
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.plan.plan import Plan

SWITCHES = {"json": "Print the plan as one JSON object, with every stage."}
# What a recipe must name and a plan from lengths does not read.
UNUSED_WITH_LENGTHS = ("--data.train=-", "--data.validation=-", "--run.output_dir=-")


def main(argv: Sequence[str]) -> int:
    """Plan a run and print what it will do and need.

    Args:
        argv: Arguments after ``plan``.

    Returns:
        0.

    Raises:
        UserError: If recipe, data or model are at fault.
    """
    parser = _parser()
    if any(argument in ("-h", "--help") for argument in argv):
        parser.print_help()
        print("\nand the recipe with its settings:\n")
    options, rest = split_options(parser, argv, SWITCHES)
    _check(options)
    placeholders = UNUSED_WITH_LENGTHS if options.lengths else ()
    config, switches = parse_command_line([*rest, *placeholders], "tacit plan", SWITCHES)
    with contextlib.redirect_stdout(sys.stderr):  # libraries log to stdout, which is for the result
        plan = _plan(config, options)
    if "json" in switches:
        print(json.dumps(plan.to_json()))
    else:
        from pipeline.cli.plan_tables import print_plan

        print_plan(config, plan)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tacit plan",
        usage="tacit plan --config RECIPE [--section.field VALUE ...] [options]",
        description="Stages, tokens, arithmetic, memory and time of a run. Needs the model's config.json, no weights.",
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
    )
    add = parser.add_argument
    add("--gpus", default="1", metavar="N", help="GPUs that share the work (default: 1).")
    add("--rows", metavar="N", help="Plan for so many training rows, as long as those at hand.")
    add(
        "--lengths",
        metavar="ROWS,QUESTION,COT,ANSWER",
        help="Plan without data and tokenizer: so many rows, all alike, with so many tokens in question and first "
        "separator, in the CoT, and in second separator, answer and end.",
    )
    add("--tflops", metavar="X", help="Peak of one GPU in TFLOP/s (default: an H100's, bf16 989, fp32 67).")
    add("--mfu", default="0.3", metavar="X", help="Part of the peak that is reached (default: 0.3).")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Turn the options' texts into numbers.

    Raises:
        UserError: If one is none, or out of range.
    """
    options.gpus = whole_number("--gpus", options.gpus)
    options.rows = None if options.rows is None else whole_number("--rows", options.rows)
    options.tflops = None if options.tflops is None else _positive("--tflops", options.tflops)
    options.mfu = _positive("--mfu", options.mfu, most=1)
    if options.rows is not None and options.lengths is not None:
        raise UserError("--rows and --lengths exclude each other: --lengths says the number of rows itself.")


def _positive(option: str, text: str, most: float | None = None) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan  # which no rule lets pass
    if not 0 < value < math.inf or (most is not None and value > most):
        limit = "" if most is None else f" and at most {most}"
        raise UserError(f"{option} ({text}) must be a number above 0{limit}; correct it.")
    return value


def _plan(config: Config, options: argparse.Namespace) -> "Plan":
    from pipeline.plan.plan import make_plan  # numpy and all: not before the recipe is known to be right

    if options.lengths is not None:
        from pipeline.plan.from_lengths import planner_from_lengths

        planner = planner_from_lengths(config, options.lengths)
    else:
        from pipeline.plan.from_data import planner_from_data  # torch and a tokenizer

        planner = planner_from_data(config, options.rows)
    return make_plan(config, planner, options.gpus, options.tflops, options.mfu)
