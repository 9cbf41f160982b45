"""A planner for a recipe's training rows."""

from pathlib import Path

from transformers.utils.logging import set_verbosity_error

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.examples import load_examples
from pipeline.modeling import build_model_config, build_tokenizer
from pipeline.plan.architecture import architecture_of
from pipeline.plan.lengths import lengths_of
from pipeline.plan.measurements import Measurements
from pipeline.plan.planner import Planner, Rows
from pipeline.plan.store import store_of
from pipeline.records import read_records

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
    architecture = architecture_of(build_model_config(config.model, tokenizer))
    return Planner(Measurements(architecture, store_of(config)), Rows(lengths_of(rows), num_rows or len(rows)))
