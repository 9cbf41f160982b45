"""`tacit ask`: a saved model answers questions as they are typed, alone or beside another."""

import contextlib
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from pipeline.cli.answer_lines import answer_lines, side_by_side, visible
from pipeline.cli.arguments import parse_options
from pipeline.cli.screen import open_screen
from pipeline.errors import UserError
from pipeline.tasks.plain_form import TaskName

if TYPE_CHECKING:
    from pipeline.answering import Answerer

PROMPT = "ask> "
HELP = """Type a question; Enter asks it. Arrow keys edit it and fetch earlier ones.
:help  these lines
:quit  end, as do Ctrl-D and Ctrl-C"""


def main(argv: Sequence[str]) -> int:
    """Answer the questions given, or those typed or piped in.

    Args:
        argv: Arguments after ``ask``.

    Returns:
        0.

    Raises:
        UserError: If a model cannot be loaded, or a question given on the command line cannot be asked.
    """
    options = parse_options(_parser(), argv)
    with contextlib.redirect_stdout(sys.stderr):  # libraries log to stdout, which is for the result
        answerers = _load(options)
    if options.question:
        for question in options.question:
            _answer(question, answerers, options.task, as_json=options.json)
        return 0
    is_typed = sys.stdin.isatty() and sys.stdout.isatty()
    try:
        for question in _typed_questions() if is_typed else _piped_questions():
            try:
                _answer(question, answerers, options.task, as_json=options.json, echo=not is_typed)
            except UserError as error:
                _tell(question, error, as_json=options.json)
    except KeyboardInterrupt:
        print(file=sys.stderr)  # behind the ^C of the terminal
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="tacit ask",
        description="Ask a saved model: what it writes of its chain of thought, its answer, tokens and time. Questions "
        "are typed, or read line by line from a pipe.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("model", type=str, help="A model folder, or a run directory, whose model/ is meant.")
    add("--compare", type=str, default=None, metavar="MODEL", help="Answer with this model too, side by side.")
    add("--question", type=str, nargs="+", default=None, help="Answer these, and end.")
    add(
        "--task",
        type=TaskName,
        default="auto",
        help="How questions are read. Plain `1234 * 5678` or `12 + 34 + 56` is written as the task's data are and the "
        "answer checked; auto does so where a question has that form, text never.",
    )
    add("--json", action="store_true", help="Print one JSON object for each question.")
    return parser


def _load(options: Namespace) -> list["Answerer"]:
    from transformers.utils.logging import disable_progress_bar  # this and what follows import torch

    from pipeline.answering import Answerer

    disable_progress_bar()
    folders = [options.model] if options.compare is None else [options.model, options.compare]
    return [Answerer(Path(folder)) for folder in folders]


def _typed_questions() -> Iterator[str]:
    """Yield what is typed, line by line, with editing and history, until it is to end."""
    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401  input() uses it from now on
    print(HELP.splitlines()[0], ":help and :quit are commands.", file=sys.stderr)
    while True:
        try:
            line = input(PROMPT).strip()
        except EOFError:
            print(file=sys.stderr)  # behind the prompt
            return
        if line == ":quit":
            return
        if line.startswith(":"):
            print(HELP if line == ":help" else f"{line}: unknown command; see :help.", file=sys.stderr)
        else:
            yield line


def _piped_questions() -> Iterator[str]:
    """Yield the lines of stdin; all of them are questions."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # no tokenizer knows what stands there then, and that is told
    for line in sys.stdin:
        yield line.strip()


def _answer(
    question: str, answerers: Sequence["Answerer"], task: TaskName, *, as_json: bool, echo: bool = True
) -> None:
    answers = [answerer.answer(question, task) for answerer in answerers]
    names = [str(answerer.folder) for answerer in answerers]
    if as_json:
        rows = [{"model": name, **answer.to_json()} for name, answer in zip(names, answers, strict=True)]
        speedup = answers[0].milliseconds / answers[-1].milliseconds
        print(json.dumps({"answers": rows, "speedup": speedup} if len(rows) > 1 else rows[0]), flush=True)
        return
    console = open_screen()
    if echo:
        console.print(visible(answers[0].question), style="bold")
    console.print(side_by_side(names, answers) if len(answers) > 1 else answer_lines(answers[0]))


def _tell(question: str, error: UserError, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"question": question, "error": str(error)}), flush=True)
    else:
        print(f"tacit: error: {error}", file=sys.stderr)
