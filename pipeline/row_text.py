"""One record as text, and that text as token ids cut at the borders of its parts."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from pipeline.chat_template import around_question, render, template_of
from pipeline.config import FormatConfig
from pipeline.errors import UserError
from pipeline.records import CoTRecord
from pipeline.records.chat import BEGIN, END, conversation_of, shown
from pipeline.records.record import gap_behind

CHAT = "{chat}"
PARTS = ("question", "first_separator", "cot", "second_separator", "answer", "end")
SEPARATORS = ("first_separator", "second_separator", "end")


def resolve_format(row_format: FormatConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return each part's template with the tokenizer's own special tokens written in.

    ``{bos}`` becomes the beginning-of-sequence token where the tokenizer puts one before a text by itself, or nothing.
    ``{chat}`` becomes what the chat template writes around a question; its source stands under ``chat`` then, for
    conversations of several messages.

    Raises:
        UserError: If a template asks for a special token or a chat template that the tokenizer lacks.
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
    if row_format.question == CHAT:
        before, behind = around_question(tokenizer)
        _check_open_block(behind, row_format, tokenizer)
        resolved |= {"question": f"{before}{{question}}{behind}", "chat": template_of(tokenizer)}
    return resolved


def _check_open_block(prompt_end: str, row_format: FormatConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a chat template that begins the reasoning itself, where the format does not close what it opens.

    Raises:
        UserError: Saying what the format must be.
    """
    is_open = prompt_end.count(BEGIN) > prompt_end.count(END)
    if is_open and (BEGIN in row_format.cot or not row_format.keep_second_separator):
        raise UserError(
            f"format.cot ({row_format.cot!r}): the chat template of the tokenizer ({tokenizer.name_or_path}) ends the "
            f"prompt with {BEGIN}; leave it out of format.cot, and set format.keep_second_separator true, so that what "
            "it opens is always closed."
        )


def render_parts(record: CoTRecord, templates: dict[str, str], tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return the text of each part, in the order of ``PARTS``; a record without CoT has an empty CoT part.

    Raises:
        UserError: If the question is a conversation, and the format or the chat template cannot write it.
    """
    return (
        render_question(record.question, templates, tokenizer),
        templates["first_separator"],
        templates["cot"].replace("{cot}", record.cot) if record.steps else "",
        templates["second_separator"],
        templates["answer"].replace("{answer}", record.answer),
        templates["end"],
    )


def render_question(question: str, templates: dict[str, str], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the question as the model reads it, without the separator behind it.

    Raises:
        UserError: If it is a conversation, and the format or the chat template cannot write it.
    """
    messages = conversation_of(question)
    if messages is None:
        return templates["question"].replace("{question}", question)
    if "chat" not in templates:
        raise UserError(
            f"question {shown(question)}: a conversation is written by a chat template; set format.question to {CHAT}."
        )
    return render(messages, tokenizer)


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
    parts = [render_parts(record, templates, tokenizer) for record in records]
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
        spans = np.array(offsets, dtype=np.int64).reshape(-1, 2)
        _check_vocabulary(record, texts, ids, spans, templates, tokenizer)
        row = _cut(record, texts, ids, spans, templates)
        if prompt != row["question"] + row["first_separator"]:
            raise UserError(
                f"question {shown(record.question)}: its prompt has other tokens alone than before its CoT; give "
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
            f"question {shown(record.question)}: the token {''.join(texts)[begin:end]!r} reaches over the border of "
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
    lengths = np.array([len(step) for step in record.steps])
    gaps = np.array([len(gap_behind(step)) for step in record.steps])
    step_ends = begin + np.cumsum(lengths + gaps) - gaps  # what stands between two steps belongs to the second
    step_of_token = np.minimum(np.searchsorted(step_ends, token_ends), len(record.steps) - 1)
    return np.bincount(step_of_token, minlength=len(record.steps)).tolist()


def _check_vocabulary(
    record: CoTRecord,
    texts: tuple[str, ...],
    ids: list[int],
    spans: np.ndarray,
    templates: dict[str, str],
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    text, unknown = "".join(texts), tokenizer.unk_token_id
    if unknown is None:  # such a tokenizer drops what it does not know
        lost = "" if covers(text, spans) else _first_unknown(sorted(set(text)), tokenizer) or "a separator"
    else:
        # Some tokenizers (GPT-2's) name their end token as the unknown one as well; then the templates may write it.
        written = text.count(str(tokenizer.unk_token)) if unknown == tokenizer.eos_token_id else 0
        words = f"{record.question} {record.cot} {record.answer}".split()
        lost = ""
        if ids.count(unknown) > written:
            found = [span for token, span in zip(ids, spans.tolist(), strict=True) if token == unknown]
            lost = _first_unknown(words, tokenizer) or _unknown_of_format(found, texts, templates, tokenizer)
    if lost:
        raise UserError(
            f"question {shown(record.question)}: {lost} is not in the tokenizer's vocabulary; choose another "
            "model.tokenizer, or other separators in format.*."
        )


def _unknown_of_format(
    spans: list[list[int]], texts: tuple[str, ...], templates: dict[str, str], tokenizer: PreTrainedTokenizerBase
) -> str:
    """Return the first unknown token, and the setting that it comes of: an empty separator joins its neighbours."""
    text = "".join(texts)
    begin, end = next((span for span in spans if text[slice(*span)] != tokenizer.unk_token), spans[0])
    ends = dict(zip(PARTS, accumulate(map(len, texts)), strict=True))
    touched = [
        part for part, own in zip(PARTS, texts, strict=True) if ends[part] - len(own) < end and ends[part] > begin
    ]
    setting = next((part for part in touched if part in SEPARATORS), touched[0])
    return f"{text[begin:end]!r}, which comes of format.{setting} ({templates[setting]!r}),"


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
    return ""
