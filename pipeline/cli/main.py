"""The `tacit` command: finds the sub-command, turns a user's mistake into one message and exit code 2."""

import errno
import importlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from pipeline.cli.arguments import check_command
from pipeline.errors import Interrupted, RunError, UserError

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
SECONDS_TO_TELL = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command.

    Args:
        argv: Arguments after the command's name; None takes the process's own.

    Returns:
        0 done, 1 the run could not go on, 2 wrong use or input, 75 interrupted and resumable.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else USAGE
    name, *rest = arguments
    try:
        if name != "--completion":
            check_command(name, COMMANDS, "tacit")
        # bitsandbytes remarks on every product that it casts, and on a CPU kernel of the Hub's that it can do without.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        # Only the sub-command asked for is imported: torch and its friends take seconds.
        return importlib.import_module(f"pipeline.cli.{name.removeprefix('--')}").main(rest)
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
        _tell("interrupted", "--resume goes on from the last checkpoint." if name == "train" else "")
        return INTERRUPTED
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            _tell("error", f"{error.filename}: no file can have so long a name; check the path.")
            return USAGE
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        _tell("error", f"{error.strerror}: {error.filename or 'a file could not be written'}; make room.")
        return FAILURE


def entry() -> NoReturn:
    """Run the command of this process, and end with its exit code.

    A rank among several leaves without Python's own clean-up: a thread that is in PyTorch's C++ code at that moment
    would abort the process ("terminate called without an active exception"), though the run has done all its work.
    """
    code = main()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _tell(kind: str, text: str) -> None:
    rank = os.environ.get("RANK", "0")
    if os.environ.get("LOCAL_RANK", rank) == "0":  # the ranks of a node find the same; one of them tells it
        node = "" if rank == "0" else f" (rank {rank})"
        for line in text.split("\n"):
            print(f"tacit: {kind}{node}: {line}", file=sys.stderr)


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
            "`tacit COMMAND --help` lists the options.",
            'eval "$(tacit --completion bash)" lets the shell complete them; zsh and fish can do it, too.',
        ]
    )
