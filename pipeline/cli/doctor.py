"""`tacit doctor`: is this machine fit to run, and a recipe on it?"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser
from rich.table import Column, Table
from rich.text import Text

from pipeline.cli.arguments import parse_options
from pipeline.cli.screen import compact_table, open_screen
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.doctor import Finding

STYLES = {"ok": "green", "note": "yellow", "fault": "bold red"}
FAULT_FOUND = 1


def main(argv: Sequence[str]) -> int:
    """Examine, and print a line for each thing looked at.

    Args:
        argv: Arguments after ``doctor``.

    Returns:
        0 where nothing is a fault, else 1.

    Raises:
        UserError: If a recipe is not there.
    """
    options = parse_options(_parser(), argv)
    recipes = [Path(path) for path in options.config]
    if missing := [f"--config {path}: no such file; check the path." for path in recipes if not path.is_file()]:
        raise UserError("\n".join(missing))
    with contextlib.redirect_stdout(sys.stderr):  # libraries log to stdout, which is for the result
        from pipeline.doctor import examine  # imports torch

        findings = examine(*recipes)
    num_faults = sum(finding.state == "fault" for finding in findings)
    if options.json:
        print(json.dumps({"num_faults": num_faults, "checks": [dataclasses.asdict(finding) for finding in findings]}))
    else:
        _print(findings, num_faults)
    return FAULT_FOUND if num_faults else 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="tacit doctor",
        description="Look at this machine, trying what can be tried quickly; exits with 1 if there is a fault.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        type=str,
        action="append",
        default=[],
        help="A recipe: look for what it names, too. Of several, a later one wins.",
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object instead of a table.")
    return parser


def _print(findings: Sequence["Finding"], num_faults: int) -> None:
    console = open_screen(140)
    console.print(findings_table(findings))
    num_notes = sum(finding.state == "note" for finding in findings)
    faults, notes = (f"{n} {word}{'' if n == 1 else 's'}" for n, word in ((num_faults, "fault"), (num_notes, "note")))
    console.print(f"{faults}, {notes}", style=STYLES["fault" if num_faults else "ok"])


def findings_table(findings: Sequence["Finding"]) -> Table:
    """Return one line a finding."""
    table = compact_table(
        Column("check", no_wrap=True),
        Column("state", no_wrap=True),
        Column("found", overflow="fold", ratio=3),
        Column("remedy", overflow="fold", ratio=2),
    )
    for finding in findings:
        table.add_row(finding.check, Text(finding.state, STYLES[finding.state]), finding.found, finding.remedy)
    return table
