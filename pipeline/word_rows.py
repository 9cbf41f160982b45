"""Rows as token ids, word by word: a batch's different words are tokenised once and put together by number.

For tokenizers that cut a text at every blank before anything else, as GPT-2's and the built-in one do: a word then has
the same tokens wherever it stands. What makes this doubtful leaves a row to ``tokenize_rows``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from pipeline.errors import UserError
from pipeline.records import CoTRecord
from pipeline.records.chat import BEGINS_CONVERSATION
from pipeline.records.columns import RecordColumns
from pipeline.row_text import PARTS, SEPARATORS, covers, tokenize_rows
from pipeline.words import Texts, WordIds, begins_of, cut_into_words

HOLES = {"question": "{question}", "cot": "{cot}", "answer": "{answer}"}
Surroundings = tuple[list[int], list[int]]
"""Ids before and behind."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What the rows of one kind, with a chain of thought or without, have around their own words."""

    question: Surroundings
    cot: Surroundings
    answer: Surroundings
    """Behind it stands the end as well."""
    separators: list[list[int]]
    """Ids of ``SEPARATORS``."""


class WordTokenizer:
    """Tokenises batches of rows by their words."""

    def __init__(self, templates: dict[str, str], tokenizer: PreTrainedTokenizerBase) -> None:
        self._templates, self._tokenizer = templates, tokenizer
        self._added = tuple(token.content for token in tokenizer.added_tokens_decoder.values())
        self._cuts_at_blanks = cuts_at_blanks(tokenizer)
        # Byte-level tokenizers make a blank the beginning of the next token; splitting at white space drops it.
        self._keeps_blanks = isinstance(tokenizer.backend_tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel)
        # The first word has other tokens then where its part of the row does not have a blank before it.
        self._glued = {
            part
            for part, hole in HOLES.items()
            if self._keeps_blanks and not templates[part].partition(hole)[0].endswith(" ")
        }
        self._frames: dict[bool, Frame | None] = {}

    def tokenize(self, rows: RecordColumns) -> Iterator[tuple[np.ndarray, Frame, dict[str, pa.Array]]]:
        """Tokenise the rows that this can be sure of.

        Yields:
            For each kind of row (``Frame``) their row numbers, and for them the columns ``question_ids``, ``cot_ids``,
            ``answer_ids`` (with the end) and ``cot_step_lengths``, with what ``tokenize_rows`` would give.
        """
        if not self._cuts_at_blanks:
            return
        num_rows, num_steps = len(rows), pc.list_value_length(rows.steps).to_numpy(zero_copy_only=False)
        words, texts = cut_into_words(pa.concat_arrays([rows.questions, rows.answers, rows.steps.flatten()]))
        word_ids = self._word_ids([f" {word}" for word in words] + (words if self._glued else []))
        if word_ids is None:
            return
        questions, answers = texts.part(0, num_rows), texts.part(num_rows, num_rows)
        steps = texts.part(2 * num_rows, num_steps.sum())
        cots = Texts(steps.words, steps.begins[begins_of(num_steps)])
        questions, cots, answers = (
            part_texts.shift_first_words(len(words)) if part in self._glued else part_texts
            for part, part_texts in zip(HOLES, (questions, cots, answers), strict=True)
        )
        steps = Texts(cots.words, steps.begins)
        sure = ~np.any([texts.any_of(word_ids.unsure) for texts in (questions, cots, answers)], axis=0)
        conversations = pc.starts_with(rows.questions, BEGINS_CONVERSATION)
        sure &= ~conversations.to_numpy(zero_copy_only=False)
        for has_cot in (True, False):
            kept = sure & ((num_steps > 0) == has_cot)
            frame = self._frame(rows, kept, has_cot) if kept.any() else None
            if frame is None:
                continue
            kept_steps = steps.pick(np.repeat(kept, num_steps))
            yield (
                np.flatnonzero(kept),
                frame,
                {
                    "question_ids": _surround(questions.pick(kept), frame.question, word_ids),
                    "cot_ids": _surround(cots.pick(kept), frame.cot, word_ids),
                    "answer_ids": _surround(answers.pick(kept), frame.answer, word_ids),
                    "cot_step_lengths": _step_lengths(kept_steps, num_steps[kept], frame.cot, word_ids),
                },
            )

    def _word_ids(self, words: list[str]) -> WordIds | None:
        """Tokenise words, with the blank before them or without; None if the tokenizer cannot."""
        unknown = self._tokenizer.unk_token_id
        try:
            found = self._tokenizer(words, add_special_tokens=False, return_offsets_mapping=True)
        except Exception:  # `tokenize_rows` will meet it too, and name it
            return None
        unsure = [
            not (word.strip() and word.isascii() and word.isprintable())
            or (not covers(word, np.array(offsets, np.int64).reshape(-1, 2)) if unknown is None else unknown in ids)
            for word, ids, offsets in zip(words, found["input_ids"], found["offset_mapping"], strict=True)
        ]
        flat = np.fromiter(chain.from_iterable(found["input_ids"]), np.int32)
        return WordIds(flat, begins_of(list(map(len, found["input_ids"]))), np.array(unsure, dtype=bool))

    def _frame(self, rows: RecordColumns, kept: np.ndarray, has_cot: bool) -> Frame | None:
        if has_cot not in self._frames:
            (record,) = rows.take(np.flatnonzero(kept)[:1]).records()
            self._frames[has_cot] = self._find_frame(record)
        return self._frames[has_cot]

    def _find_frame(self, record: CoTRecord) -> Frame | None:
        """Find what the rows of a record's kind have around their words.

        A row is what stands between its own texts, each tokenised alone, and the words of these texts. That borders
        and tokens come out so is seen from the record, tokenised as one text; that they do so whatever the words are
        follows from the blanks and added tokens around them, at which the tokenizer cuts.

        Returns:
            The frame; None if that cannot be said, or ``tokenize_rows`` refuses the record.
        """
        texts = {"question": record.question, "answer": record.answer}
        if record.steps:
            texts = {"question": record.question, "cot": record.cot, "answer": record.answer}
        between = self._texts_between(list(texts))
        if between is None:
            return None
        try:
            (row,) = tokenize_rows([record], self._templates, self._tokenizer)
        except UserError:
            return None
        ids = list(chain.from_iterable(row[part] for part in PARTS))
        begins = dict(zip((*PARTS, ""), begins_of([len(row[part]) for part in PARTS]).tolist(), strict=True))
        ends = {"question": begins["first_separator"], "cot": begins["second_separator"], "answer": len(ids)}
        around: dict[str, Surroundings] = {"cot": ([], [])}
        place = 0
        for (part, text), before in zip(texts.items(), between, strict=False):
            first, *others = text.split(" ")
            words = [first if part in self._glued else f" {first}", *(f" {word}" for word in others)]
            pieces = [self._ids_of(before), *map(self._ids_of, words)]
            begin, end = place + len(pieces[0]), place + sum(map(len, pieces))
            if ids[place:end] != list(chain.from_iterable(pieces)):
                return None
            assert begins[part] <= begin <= end <= ends[part]  # no token of a word begins in another part
            around[part] = ids[begins[part] : begin], ids[end : ends[part]]
            place = end
        if ids[place:] != self._ids_of(between[-1]):
            return None
        return Frame(**around, separators=[row[part] for part in SEPARATORS])

    def _texts_between(self, parts: list[str]) -> list[str] | None:
        """Return the texts before, between and behind a row's own; None if a word could join one of them.

        A blank before a word is left out where it is the beginning of the word's token.
        """
        between = [""]
        for part in PARTS:
            if part in parts or part not in HOLES:
                before, hole, behind = self._templates[part].partition(HOLES.get(part, "\0"))
                between[-1] += before
                between += [behind] if hole else []
        if len(between) != len(parts) + 1:
            return None
        cuts = (" ", *self._added)
        if not all(text.startswith(cuts) for text in between[1:]):
            return None
        for place, part in enumerate(parts):
            if self._keeps_blanks and part not in self._glued:
                between[place] = between[place][:-1]
            # Behind a blank, a glued word's token would begin in another part.
            elif not between[place].endswith(self._added if self._keeps_blanks else cuts) and (place or between[0]):
                return None
        return between

    def _ids_of(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False).input_ids


def cuts_at_blanks(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether printable ASCII words behind single blanks have the same tokens in every text.

    Of what a tokenizer may hold, the few things of which this is known are let through.
    """
    backend = tokenizer.backend_tokenizer
    cutter, model = backend.pre_tokenizer, backend.model
    added = list(tokenizer.added_tokens_decoder.values())
    return (
        backend.normalizer is None
        and not tokenizer.split_special_tokens
        and (
            isinstance(cutter, pre_tokenizers.WhitespaceSplit)
            or (isinstance(cutter, pre_tokenizers.ByteLevel) and cutter.use_regex and not cutter.add_prefix_space)
        )
        and (isinstance(model, models.WordLevel) or (isinstance(model, models.BPE) and not model.dropout))
        and all(token.content.split() == [token.content] for token in added)
        and not any(token.lstrip or token.rstrip or token.single_word for token in added)
        and not _overlap([token.content for token in added])
    )


def _overlap(texts: list[str]) -> bool:
    """Return whether the end of one of the texts can be the beginning of another, or of itself."""
    return any(
        first[place:].startswith(second) or second.startswith(first[place:])
        for first in texts
        for second in texts
        for place in range(first is second, len(first))
    )


def _surround(texts: Texts, around: Surroundings, word_ids: WordIds) -> pa.Array:
    """Return each text's ids between those around it, as lists."""
    before, behind = around
    own, begins = word_ids.of(texts.words), word_ids.begins_in(texts.words)[texts.begins]
    begins = begins + (len(before) + len(behind)) * np.arange(len(begins))
    ids, is_own = np.empty(begins[-1], dtype=np.int32), np.ones(begins[-1], dtype=bool)
    for shift, token in [*enumerate(before), *enumerate(behind, start=-len(behind))]:
        places = (begins[:-1] if shift >= 0 else begins[1:]) + shift
        ids[places], is_own[places] = token, False
    ids[is_own] = own
    return pa.ListArray.from_arrays(begins.astype(np.int32), ids)


def _step_lengths(steps: Texts, num_steps: np.ndarray, around: Surroundings, word_ids: WordIds) -> pa.Array:
    """Return the tokens of each row's steps, as lists; what surrounds the CoT belongs to the first and the last."""
    lengths = np.diff(word_ids.begins_in(steps.words)[steps.begins])
    begins = begins_of(num_steps)
    if len(lengths):
        lengths[begins[:-1]] += len(around[0])
        lengths[begins[1:] - 1] += len(around[1])
    return pa.ListArray.from_arrays(begins.astype(np.int32), lengths.astype(np.int32))
