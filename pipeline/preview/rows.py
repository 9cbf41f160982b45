"""A training row taken apart again, token by token, with what removal has taken out of it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from pipeline.batching import IGNORE_INDEX, collate
from pipeline.layout import Row, SequenceLayout
from pipeline.removal import CoTExample, Side

BLANK = "▁"  # stands for a blank in the vocabularies of SentencePiece
NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a row, or one that removal has taken out of it."""

    text: str
    """As it stands in the text, with its own blanks; the vocabulary's name of it where it is no whole character."""
    id: int
    part: str
    """``question``, ``first_separator``, ``cot``, ``second_separator``, ``answer`` or ``end``."""
    position: int | None
    """Position id; None where the token is removed."""
    has_loss: bool

    @property
    def is_removed(self) -> bool:
        """Whether the model does not see it."""
        return self.position is None


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A training row at a stage."""

    row_number: int
    """Its place among the training rows in use, from 0."""
    offset: int | None
    """What it loses beyond the stage's number in the epoch in which the stage begins; None where none is drawn."""
    num_cot: int
    """Tokens of its CoT in full."""
    num_removed: int
    """Of these, how many are gone."""
    shift: int
    """By how much its last position lies behind one counted without a gap (kept positions)."""
    tokens: tuple[Token, ...]
    """In order, removed ones where they stood."""


def show_row(
    row_number: int,
    offset: int | None,
    example: CoTExample,
    row: Row,
    layout: SequenceLayout,
    side: Side,
    right_first: int,
    text_of: Callable[[int], str],
) -> ShownRow:
    """Take a row apart.

    Args:
        row_number: Its place among the training rows.
        offset: What it draws.
        example: The row with its whole CoT.
        row: What training makes of it.
        layout: Separators of the run.
        side: The end at which its CoT is removed.
        right_first: Of the removed tokens, the first so many are gone from the right.
        text_of: Gives a token's text.
    """
    batch = collate([row], layout)
    seen = list(zip(batch.input_ids[0].tolist(), batch.position_ids[0].tolist(), batch.labels[0].tolist(), strict=True))
    num_cot = len(example.cot_ids)
    num_left = int(cot_left(len(seen), len(example.question_ids), len(example.answer_ids), layout))
    begin = max(num_cot - num_left - right_first, 0) if side == "left" else 0
    kept = slice(begin, begin + num_left)
    *answer, end = example.answer_ids
    parts = (
        ("question", example.question_ids, True),
        ("first_separator", layout.first_separator_ids, True),
        ("cot", example.cot_ids[: kept.start], False),
        ("cot", example.cot_ids[kept], True),
        ("cot", example.cot_ids[kept.stop :], False),
        ("second_separator", layout.second_separator_ids, bool(layout.second_separator(num_left > 0))),
        ("answer", answer, True),
        ("end", (end,), True),
    )
    tokens, place = [], 0
    for part, ids, stays in parts:
        for token_id in ids:
            position, has_loss = None, False
            if stays:
                seen_id, position, label = seen[place]
                assert seen_id == token_id
                has_loss = label != IGNORE_INDEX
                place += 1
            tokens.append(Token(text_of(token_id), token_id, part, position, has_loss))
    assert place == len(seen)
    return ShownRow(row_number, offset, num_cot, num_cot - num_left, seen[-1][1] - (len(seen) - 1), tuple(tokens))


def cot_left(
    row: int | np.ndarray, question: int | np.ndarray, answer: int | np.ndarray, layout: SequenceLayout
) -> np.ndarray:
    """Return the tokens of CoT in rows of known length, in the shape of the arguments, which are numbers of tokens.

    Args:
        row: The whole row.
        question: Without the separator.
        answer: With the end token.
        layout: Separators of the run; the second may be gone together with the CoT.
    """
    separators = len(layout.first_separator_ids) + len(layout.second_separator_ids)
    return np.asarray(np.maximum(row - question - answer - separators, 0))


def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Return a token as it stands in a text, blanks included; its name in the vocabulary if that is no text."""
    name = tokenizer.convert_ids_to_tokens(token_id)
    if name in tokenizer.all_special_tokens:
        return name
    text = tokenizer.convert_tokens_to_string([name])
    num_blanks = len(name) - len(name.lstrip(BLANK))
    if num_blanks:  # the decoder takes a text's first blank off
        text = " " * num_blanks + text.lstrip(" ")
    return name if NO_CHARACTER in text or not text else text
