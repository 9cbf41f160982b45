"""A planner for rows that are all alike, without data or tokenizer."""

from functools import cache
from typing import TYPE_CHECKING

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.plan.architecture import find_architecture
from pipeline.plan.lengths import parse_lengths
from pipeline.plan.measurements import Measurements
from pipeline.plan.planner import Planner, Rows
from pipeline.plan.store import store_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def planner_from_lengths(config: Config, text: str) -> Planner:
    """Return a planner for rows that are all alike, without data or tokenizer.

    Args:
        config: The recipe.
        text: ``ROWS,QUESTION,COT,ANSWER``.

    Raises:
        UserError: If the text or the architecture cannot be read, or the recipe needs more than lengths.
    """
    num_rows, lengths = parse_lengths(text)
    if config.removal.unit == "step":
        raise UserError("--lengths does not say how long reasoning steps are (removal.unit step); plan with data.")
    scratch = config.model.from_scratch
    if scratch is not None and config.model.tokenizer != "words" and "vocab_size" not in scratch:
        raise UserError(
            "model.from_scratch has no vocab_size, and with --lengths no tokenizer is asked; add "
            "--model.from_scratch.vocab_size NUMBER."
        )

    @cache
    def build() -> "PretrainedConfig":
        from transformers.utils.logging import set_verbosity_error  # with torch: not where all was measured before

        from pipeline.modeling import build_model_config
        from pipeline.word_tokenizer import build_word_tokenizer

        set_verbosity_error()
        # A model from scratch takes from the tokenizer no more than its vocabulary, which is given or the words' own.
        return build_model_config(config.model, build_word_tokenizer())

    store = store_of(config)
    return Planner(Measurements(find_architecture(config.model, build, store), store), Rows(lengths, num_rows))
