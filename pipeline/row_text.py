"""One record as text, and that text as token ids cut at the borders of its parts."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from pipeline.config import FormatConfig
from pipeline.errors import UserError
from pipeline.records import CoTRecord

PARTS = ("question", "first_separator", "cot", "second_separator", "answer", "end")
SEPARATORS = ("first_separator", "second_separator", "end")


def resolve_format(row_format: FormatConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return each part's template with the tokenizer's own special tokens written in.

    ``{bos}`` becomes the beginning-of-sequence token where the tokenizer puts one before a text by itself, or nothing.

    Raises:
        UserError: If a template asks for a special token that the tokenizer lacks.
    """
    uses_bos = tokenizer.bos_token_id is not None and tokenizer("1").input_ids[:1] == [tokenizer.bos_token_id]
    resolved = {}
    for part in PARTS:
        template = getattr(row_format, part)
        if "{eos}" in template and tokenizer.eos_token is None:
            raise UserError(
                f"format.{part} ({template!r}) holds {{eos}}, which the tokenizer lacks; write another token."
            )
        resolved[part] = template.replace("{eos}", str(tokenizer.eos_token or ""))
        resolved[part] = resolved[part].replace("{bos}", str(tokenizer.bos_token) if uses_bos else "")
    return resolved


def render_parts(record: CoTRecord, templates: dict[str, str]) -> tuple[str, ...]:
    """Return the text of each part, in the order of ``PARTS``; a record without CoT has an empty CoT part."""
    return (
        render_question(record.question, templates),
        templates["first_separator"],
        templates["cot"].replace("{cot}", record.cot) if record.steps else "",
        templates["second_separator"],
        templates["answer"].replace("{answer}", record.answer),
        templates["end"],
    )


def render_question(question: str, templates: dict[str, str]) -> str:
    """Return the question as the model reads it, without the separator behind it."""
    return templates["question"].replace("{question}", question)


def tokenize_rows(
    records: Sequence[CoTRecord], templates: dict[str, str], tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, list[int]]]:
    """Tokenise rows in one batch and cut them into parts.

    A row is tokenised as one text and cut where its parts meet, so the joined parts are the ids of the whole text. The
    prompt is tokenised alone as well: it must give the same ids, or the model would be asked something that it was
    not trained on.

    Returns:
        For each record the ids of each part, and ``cot_step_lengths``: the tokens in each reasoning step.

    Raises:
        UserError: If a token reaches over a border, a prompt reads differently alone, or a word is unknown.
    """
    parts = [render_parts(record, templates) for record in records]
    ids_alone: dict[str, Any] = {
        "add_special_tokens": False,
        "return_attention_mask": False,
        "return_token_type_ids": False,
    }
    try:
        whole = tokenizer(["".join(texts) for texts in parts], **ids_alone, return_offsets_mapping=True)
        prompts = tokenizer([texts[0] + texts[1] for texts in parts], **ids_alone)
    except Exception as error:  # what tokenizers raise has no class of its own
        raise UserError(
            f"model.tokenizer ({tokenizer.name_or_path}) cannot read the rows ({error}); choose another, or other "
            "separators in format.*."
        ) from error
    rows = []
    for record, texts, ids, offsets, prompt in zip(
        records, parts, whole["input_ids"], whole["offset_mapping"], prompts["input_ids"], strict=True
    ):
        text, spans = "".join(texts), np.array(offsets, dtype=np.int64).reshape(-1, 2)
        _check_vocabulary(record, text, ids, spans, tokenizer)
        row = _cut(record, texts, ids, spans, templates)
        if prompt != row["question"] + row["first_separator"]:
            raise UserError(
                f"question {record.question!r}: its prompt has other tokens alone than before its CoT; give "
                "format.first_separator a token of its own, such as {eos}."
            )
        rows.append(row)
    return rows


def _cut(
    record: CoTRecord, texts: tuple[str, ...], ids: list[int], offsets: np.ndarray, templates: dict[str, str]
) -> dict[str, list[int]]:
    borders = np.array(list(accumulate(len(text) for text in texts)))
    # By a token's end, not its start: tokenizers trim blanks off, so the token of a lone blank begins where it ends.
    part_of_token = np.searchsorted(borders, offsets[:, 1])
    part_begins = np.concatenate([[0], borders[:-1]])[part_of_token]
    over = np.flatnonzero(offsets[:, 0] < part_begins)
    if len(over):
        begin, end = offsets[over[0]]
        raise UserError(
            f"question {record.question!r}: the token {''.join(texts)[begin:end]!r} reaches over the border of "
            f"{PARTS[part_of_token[over[0]]]}; give the separators in format.* tokens of their own, such as {{eos}}."
        )
    cuts = np.searchsorted(part_of_token, range(len(PARTS) + 1))
    row = {part: ids[cuts[i] : cuts[i + 1]] for i, part in enumerate(PARTS)}
    row["cot_step_lengths"] = _step_lengths(record, borders[1], offsets[cuts[2] : cuts[3], 1], templates)
    return row


def _step_lengths(record: CoTRecord, cot_begin: int, token_ends: np.ndarray, templates: dict[str, str]) -> list[int]:
    """Count the tokens of each step; what the template adds belongs to the first and the last step."""
    if not record.steps:
        return []
    begin = cot_begin + templates["cot"].index("{cot}")
    step_ends = begin + np.array(list(accumulate(len(step) + 1 for step in record.steps))) - 1
    step_of_token = np.minimum(np.searchsorted(step_ends, token_ends), len(record.steps) - 1)
    return np.bincount(step_of_token, minlength=len(record.steps)).tolist()


def _check_vocabulary(
    record: CoTRecord, text: str, ids: list[int], spans: np.ndarray, tokenizer: PreTrainedTokenizerBase
) -> None:
    unknown = tokenizer.unk_token_id
    if unknown is None:  # such a tokenizer drops what it does not know
        lost = "" if covers(text, spans) else _first_unknown(sorted(set(text)), tokenizer)
    else:
        # Some tokenizers (GPT-2's) name their end token as the unknown one as well; then the templates may write it.
        written = text.count(str(tokenizer.unk_token)) if unknown == tokenizer.eos_token_id else 0
        words = f"{record.question} {record.cot} {record.answer}".split()
        lost = "" if ids.count(unknown) <= written else _first_unknown(words, tokenizer)
    if lost:
        raise UserError(
            f"question {record.question!r}: {lost} is not in the tokenizer's vocabulary; choose another "
            "model.tokenizer, or other separators in format.*."
        )


def covers(text: str, spans: np.ndarray) -> bool:
    """Return whether every visible character belongs to a token; ``spans`` is (num_tokens, 2)."""
    steps = np.zeros(len(text) + 1, dtype=np.int64)
    np.add.at(steps, spans[:, 0], 1)
    np.add.at(steps, spans[:, 1], -1)
    return all(text[i].isspace() for i in np.flatnonzero(np.cumsum(steps[:-1]) == 0))


def _first_unknown(pieces: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> str:
    for piece in pieces:
        ids = tokenizer(piece, add_special_tokens=False).input_ids
        if tokenizer.unk_token_id in ids or not (ids or piece.isspace()):
            return repr(piece)
    return "a separator"
