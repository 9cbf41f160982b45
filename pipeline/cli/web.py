"""`tacit web`: a page in the browser that asks saved models."""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from pipeline.cli.arguments import parse_options
from pipeline.tasks.plain_form import TaskName


def main(argv: Sequence[str]) -> int:
    """Serve the page until Ctrl-C.

    Args:
        argv: Arguments after ``web``.

    Returns:
        0.

    Raises:
        UserError: If Gradio or a model is not there, or the port is taken.
    """
    options = parse_options(_parser(), argv)
    with contextlib.redirect_stdout(sys.stderr):  # libraries log to stdout, which is for the result
        from transformers.utils.logging import disable_progress_bar  # this and what follows import torch

        from pipeline.web import Stages, bind, build_page, serve, url_of

        disable_progress_bar()
        listening = bind(options.host, options.port)
        page = build_page(Stages([Path(path) for path in options.model], options.task))
    with contextlib.suppress(KeyboardInterrupt):
        print(f"{url_of(listening)}  (Ctrl-C ends it)", flush=True)
        with contextlib.redirect_stdout(sys.stderr):
            serve(page, listening)
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="tacit web",
        description="Serve a page that asks saved models: a slider over the stages, what each writes, whether it is "
        "right, and how long it takes. Needs Gradio (pip install gradio). Nothing leaves this machine.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "model",
        type=str,
        nargs="+",
        help="Model folders, and run directories, of which all kept stages and model/ are offered.",
    )
    add("--host", type=str, default="127.0.0.1", help="Address to serve on; 0.0.0.0 lets the whole network ask.")
    add("--port", type=int, default=7860, help="Port to serve on; 0 takes a free one.")
    add("--task", type=TaskName, default="auto", help="How questions are read, as in tacit ask.")
    return parser
