"""`tacit export`: a run as one plain Hugging Face folder."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from pipeline.cli.arguments import parse_options
from pipeline.errors import UserError

Dtype = Literal["float32", "bfloat16", "float16"]


def main(argv: Sequence[str]) -> int:
    """Export, and say what was written.

    Args:
        argv: Arguments after ``export``.

    Returns:
        0.

    Raises:
        UserError: If there is nothing to export, or something would be lost.
    """
    options = parse_options(_parser(), argv)
    if options.stage is not None and options.step is not None:
        raise UserError("--stage and --step exclude each other; leave one out.")
    if options.private and options.push is None:
        raise UserError("--private is for --push; name a repository, or leave it out.")
    with contextlib.redirect_stdout(sys.stderr):  # libraries log to stdout, which is for the result
        from transformers.utils.logging import disable_progress_bar  # this and what follows import torch

        from pipeline.export import export_model, find_source
        from pipeline.hub import push_folder

        disable_progress_bar()
        report = export_model(
            find_source(Path(options.source), options.stage, options.step),
            Path(options.output),
            base=options.base,
            dtype=options.dtype,
            license_name=options.license,
            overwrite=options.overwrite,
            trust_remote_code=options.trust_remote_code,
        )
        address = push_folder(report.output, options.push, private=options.private) if options.push else None
    if options.json:
        print(json.dumps({**dataclasses.asdict(report), "output": str(report.output), "address": address}))
        return 0
    merged = ", adapters merged" if report.merged_adapters else ""
    print(
        f"{report.output}: {report.num_parameters:,} parameters in {report.num_tensors} tensors, {report.dtype}"
        f"{merged}; shapes checked, loaded again, same logits"
    )
    print(f"pushed to {address}" if address else f"next: tacit ask {report.output}")
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="tacit export",
        description="Merge adapters, put the parts of a checkpoint together, and write one plain Hugging Face folder "
        "of safetensors: every tensor's shape is checked, and the folder loaded again.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("source", type=str, help="A run directory, a model folder, or a checkpoint.")
    add("--output", type=str, required=True, help="Folder to write.")
    add("--stage", type=int, default=None, help="Of a run, the kept stage with so many removed units.")
    add("--step", type=int, default=None, help="Of a run, the checkpoint after so many optimizer steps.")
    add("--base", type=str, default=None, help="Where the base of adapters lies now, if not where they say.")
    add(
        "--dtype",
        type=Dtype,
        default=None,
        help="Type of the weights; the one trained in if not given.",
    )
    add("--license", type=str, default="", help="Licence for the model card; the base's, if it says, if not given.")
    add("--push", type=str, default=None, help="Put it on the Hugging Face Hub too, as OWNER/NAME; needs a login.")
    add("--private", action="store_true", help="With --push: make the repository private.")
    add("--overwrite", action="store_true", help="Replace an earlier export.")
    add("--trust_remote_code", action="store_true", help="Run Python code that comes with the model.")
    add("--json", action="store_true", help="Print one JSON object.")
    return parser
