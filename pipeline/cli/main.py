"""The `tacit` command: finds the sub-command, turns a user's mistake into one message and exit code 2."""

import errno
import importlib
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from pipeline.errors import Interrupted, RunError, UserError, first_line

COMMANDS = {
    "plan": "What a recipe will do and need: stages, tokens, FLOPs, memory, time.",
    "preview": "Training rows as the model will see them, stage by stage, and how they are batched.",
    "train": "Train through every stage of a recipe.",
    "evaluate": "Accuracy and speed of saved models, side by side.",
    "frontier": "Accuracy and speed of every kept stage of a run, and the stages worth choosing.",
    "audit": "Is the reasoning of a model really internalized?",
    "report": "One page of figures and tables about one run or several.",
    "ask": "Ask a saved model; two side by side.",
    "web": "The same as a page in the browser, with a slider over the stages.",
    "score": "Accuracy of predictions stored in a file.",
    "export": "One plain Hugging Face folder of a run: adapters merged, parts put together.",
    "data": "Make, convert and split data.",
    "doctor": "Is this machine, and a recipe on it, fit to run?",
}
FAILURE = 1
USAGE = 2
INTERRUPTED = 75  # what a scheduler takes for "start me again"
SECONDS_TO_TELL = 10
REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EROFS: "write to another folder",
}
SMALLER = (
    "Halve engine.micro_batch_tokens or, in an evaluation, evaluation.batch_size (--batch_size); `tacit plan` says "
    "what else saves memory."
)
IMPORT_SYSTEM = "<frozen importlib._bootstrap>"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command.

    Args:
        argv: Arguments after the command's name; None takes the process's own.

    Returns:
        0 done, 1 the run could not go on or a command was interrupted, 2 wrong use or input, 75 a training was
        interrupted and can be resumed.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()  # a full disk and a reader that has gone are to be found here
        return code
    except UserError as error:
        _tell("error", str(error))
        if os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(SECONDS_TO_TELL)  # or the launcher may end the one that tells, before it has
        return USAGE
    except RunError as error:
        _tell("error", str(error))
        return FAILURE
    except Interrupted as stop:
        _tell("interrupted", f"{stop}; --resume goes on from there.")
        return INTERRUPTED
    except KeyboardInterrupt:
        return _interrupted(arguments)
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # rich has met it
            return 0
        raise
    except BrokenPipeError:
        if _is_read():  # it was another pipe than stdout
            raise
        return 0
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            _tell("error", f"{error.filename}: no file can have so long a name; check the path.")
            return USAGE
        if error.errno not in REMEDIES:
            raise
        what = error.filename or "a file could not be written"
        _tell("error", f"{error.strerror}: {what}; {REMEDIES[error.errno]}.")
        return FAILURE
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # PyTorch's, which only a command that needs it has imported
            raise
        _tell("error", f"{first_line(error)}. {SMALLER}")
        return FAILURE


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else USAGE
    name, *rest = arguments
    if name == "--version":
        print(_version())
        return 0
    if name != "--completion":
        from pipeline.cli.arguments import check_command  # imports jsonargparse

        check_command(name, COMMANDS, "tacit")
    # bitsandbytes remarks on every product that it casts, and on a CPU kernel of the Hub's that it can do without.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Only the sub-command asked for is imported: torch and its friends take seconds.
    code: int = importlib.import_module(f"pipeline.cli.{name.removeprefix('--')}").main(rest)
    return code


def entry() -> NoReturn:
    """Run the command of this process, and end with its exit code.

    A rank among several leaves without Python's own clean-up: a thread that is in PyTorch's C++ code at that moment
    would abort the process ("terminate called without an active exception"), though the run has done all its work.
    """
    _open_closed_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is to be ignored, as with nohup
        signal.signal(signal.SIGINT, _on_interrupt)
    try:
        code = main()
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # or Python itself would tell of what was not taken, once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if os.environ.get("WORLD_SIZE", "1") != "1":
        logging.shutdown()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _open_closed_streams() -> None:
    """Let nothing stand where the caller has closed a stream (`>&-`), before a file takes its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _is_read() -> bool:
    """Return whether stdout is anything but a pipe that nobody reads any more, as with `| head -1`."""
    poll = select.poll()
    poll.register(sys.stdout, select.POLLOUT)
    return not any(event & select.POLLERR for _, event in poll.poll(0))


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    """Leave at once from an import, which may swallow an exception or make another of it; else raise as Python does."""
    above = frame
    while above is not None:
        if above.f_code.co_filename == IMPORT_SYSTEM:
            os._exit(_interrupted(sys.argv[1:]))
        above = above.f_back
    signal.default_int_handler(number, frame)


def _interrupted(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] == "train":
        _tell("interrupted", "--resume goes on from the last checkpoint.")
        return INTERRUPTED
    _tell("interrupted")
    return FAILURE


def _tell(kind: str, text: str = "") -> None:
    rank = os.environ.get("RANK", "0")
    if os.environ.get("LOCAL_RANK", rank) == "0":  # the ranks of a node find the same; one of them tells it
        node = "" if rank == "0" else f" (rank {rank})"
        for line in text.split("\n"):
            print(f"tacit: {kind}{node}{': ' if line else ''}{line}", file=sys.stderr)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # takes longer than all the rest of the help

    try:
        return f"tacit {version('tacit')}"
    except PackageNotFoundError:
        return "tacit (run from a checkout that is not installed)"


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: tacit COMMAND ...",
            "",
            "Teach a language model to answer without writing its reasoning, stage by stage.",
            "",
            *lines,
            "",
            "`tacit COMMAND --help` lists the options, `tacit --version` tells the version.",
            'eval "$(tacit --completion bash)" lets the shell complete them; zsh and fish can do it, too.',
        ]
    )
