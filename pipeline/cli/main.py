"""The `tacit` command: finds the sub-command, turns a user's mistake into one message and exit code 2."""

import importlib
import logging
import os
import sys
from collections.abc import Sequence

from pipeline.cli.arguments import check_command
from pipeline.errors import UserError

COMMANDS = {
    "plan": "What a recipe will do and need: stages, tokens, FLOPs, memory, time.",
    "train": "Train through every stage of a recipe.",
    "evaluate": "Accuracy and speed of saved models, side by side.",
    "score": "Accuracy of predictions stored in a file.",
    "export": "One plain Hugging Face folder of a run: adapters merged, parts put together.",
    "data": "Make, convert and split data.",
    "doctor": "Is this machine, and a recipe on it, fit to run?",
}
USAGE = 2
INTERRUPTED = 75  # what a scheduler takes for "start me again"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command.

    Args:
        argv: Arguments after the command's name; None takes the process's own.

    Returns:
        0 done, 2 wrong use or input, 75 interrupted and resumable.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else USAGE
    name, *rest = arguments
    try:
        check_command(name, COMMANDS, "tacit")
        # bitsandbytes remarks on every product that it casts, and on a CPU kernel of the Hub's that it can do without.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        # Only the sub-command asked for is imported: torch and its friends take seconds.
        return importlib.import_module(f"pipeline.cli.{name}").main(rest)
    except UserError as error:
        rank = os.environ.get("RANK", "0")
        local_rank = os.environ.get("LOCAL_RANK", rank)
        if local_rank == "0":  # the ranks of a node find the same mistake; one of them tells it
            node = "" if rank == "0" else f" (rank {rank})"
            for line in str(error).split("\n"):
                print(f"tacit: error{node}: {line}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        hint = "; `--resume` goes on from the last checkpoint" if name == "train" else ""
        print(f"tacit: interrupted{hint}.", file=sys.stderr)
        return INTERRUPTED


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
        ]
    )
