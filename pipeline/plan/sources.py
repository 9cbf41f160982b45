"""Where a plan's rows and architecture come from: the recipe's data, or lengths alone."""

from pathlib import Path

from transformers.utils.logging import set_verbosity_error

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.examples import load_examples
from pipeline.modeling import build_model_config, build_tokenizer
from pipeline.plan.lengths import lengths_of, parse_lengths
from pipeline.plan.planner import Planner, Rows
from pipeline.records import read_records
from pipeline.word_tokenizer import build_word_tokenizer

INSTEAD = "or plan without data and tokenizer: --lengths ROWS,QUESTION,COT,ANSWER (tokens)."


def planner_from_data(config: Config, num_rows: int | None) -> Planner:
    """Return a planner for a recipe's training rows.

    Args:
        config: The recipe.
        num_rows: Rows that those at hand stand for; None takes them as they are.

    Raises:
        UserError: If tokenizer, rows or architecture cannot be read; says how to do without the first two.
    """
    set_verbosity_error()
    data = config.data
    try:
        # A file that is not there is told at once: a tokenizer may first be looked for on the Hub, which takes long.
        read_records(data.train, source_format=data.source_format, split=data.train_split)
        tokenizer = build_tokenizer(config.model)
        rows = load_examples(data.train, data.train_split, data, config.format, tokenizer).head(data.num_train)
    except UserError as error:
        if Path(data.train).is_file() and not str(error).startswith("model."):
            raise
        raise UserError(f"{str(error).rstrip('.')}; {INSTEAD}") from error
    model_config = build_model_config(config.model, tokenizer)
    return Planner(model_config, Rows(lengths_of(rows), num_rows or len(rows)))


def planner_from_lengths(config: Config, text: str) -> Planner:
    """Return a planner for rows that are all alike, without data or tokenizer.

    Args:
        config: The recipe.
        text: ``ROWS,QUESTION,COT,ANSWER``.

    Raises:
        UserError: If the text or the architecture cannot be read, or the recipe needs more than lengths.
    """
    set_verbosity_error()
    num_rows, lengths = parse_lengths(text)
    if config.removal.unit == "step":
        raise UserError("--lengths does not say how long reasoning steps are (removal.unit step); plan with data.")
    scratch = config.model.from_scratch
    if scratch is not None and config.model.tokenizer != "words" and "vocab_size" not in scratch:
        raise UserError(
            "model.from_scratch has no vocab_size, and with --lengths no tokenizer is asked; add "
            "--model.from_scratch.vocab_size NUMBER."
        )
    # A model from scratch takes from the tokenizer no more than its vocabulary, which is given or the words' own.
    return Planner(build_model_config(config.model, build_word_tokenizer()), Rows(lengths, num_rows))
