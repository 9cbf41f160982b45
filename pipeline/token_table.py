"""Batches of rows as Arrow tables of token ids: what the cache of examples holds."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from pipeline.errors import UserError
from pipeline.records import CoTRecord
from pipeline.records.chat import shown
from pipeline.records.columns import RecordColumns
from pipeline.row_text import SEPARATORS, tokenize_rows
from pipeline.word_rows import WordTokenizer
from pipeline.words import begins_of

IDS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    {
        "question": pa.string(),
        "answer": pa.string(),
        "question_ids": IDS,
        "cot_ids": IDS,
        "answer_ids": IDS,
        "cot_step_lengths": IDS,
    }
)


class RowTokenizer:
    """Makes tables of rows, batch after batch.

    Attributes:
        separators: Ids of ``SEPARATORS``, which all rows share; empty before the first batch.
    """

    def __init__(self, templates: dict[str, str], tokenizer: PreTrainedTokenizerBase) -> None:
        self.separators: list[list[int]] = []
        self._templates, self._tokenizer = templates, tokenizer
        self._words = WordTokenizer(templates, tokenizer)

    def table(self, rows: RecordColumns) -> pa.Table:
        """Return a batch, one entry a row, with the columns of ``SCHEMA``.

        Raises:
            UserError: If a row cannot be tokenised as the format asks, has other separators than the first, or holds
                one where its answer could not be told from the rest of what a model writes.
        """
        self.separators = self.separators or self._separators_of(rows)
        tables, numbers, missing = [], [], np.ones(len(rows), dtype=bool)
        for found, frame, columns in self._words.tokenize(rows):
            if frame.separators == self.separators:
                tables.append(_table(rows if len(found) == len(rows) else rows.take(found), columns))
                numbers.append(found)
                missing[found] = False
        if missing.any():
            numbers.append(np.flatnonzero(missing))
            tables.append(self._table_by_rows(rows.take(numbers[-1])))
        table = tables[0] if len(tables) == 1 else pa.concat_tables(tables).take(np.argsort(np.concatenate(numbers)))
        self._check_borders(table)
        return table

    def num_tokens(self, table: pa.Table) -> np.ndarray:
        """Return the length of each row with its separators, (num_rows,)."""
        own = sum(pc.list_value_length(table[name]).to_numpy() for name in ("question_ids", "cot_ids", "answer_ids"))
        return own + len(self.separators[0]) + len(self.separators[1])  # the end is one of the answer's ids

    def _separators_of(self, rows: RecordColumns) -> list[list[int]]:
        (row,) = tokenize_rows(rows.take(np.array([0])).records(), self._templates, self._tokenizer)
        separators = [row[part] for part in SEPARATORS]
        if len(separators[2]) != 1:  # the one token that decoding looks for
            raise UserError(f"format.end makes {len(separators[2])} tokens; it must make exactly one, such as {{eos}}.")
        return separators

    def _check_borders(self, table: pa.Table) -> None:
        """Refuse rows that would be read back as another answer.

        What a model writes ends at the end token, and its answer begins behind the last second separator.
        """
        end, separator = self.separators[2][0], self.separators[1]
        cots, answers = table["cot_ids"].combine_chunks(), table["answer_ids"].combine_chunks()
        if len(rows := _rows_with(end, cots)):
            self._refuse(table, rows[0], "chain of thought", "end")
        ends = _rows_with(end, answers)
        if len(ends) > len(table):  # each answer has its own end behind it
            self._refuse(table, ends[np.flatnonzero(ends[1:] == ends[:-1])[0]], "answer", "end")
        if not separator or end in separator:
            return
        for row in dict.fromkeys(_rows_with(separator[0], answers).tolist()):
            ids = answers[row].as_py()
            if any(ids[i : i + len(separator)] == separator for i in range(len(ids))):
                self._refuse(table, row, "answer", "second_separator")

    def _refuse(self, table: pa.Table, row: int, part: str, setting: str) -> None:
        raise UserError(
            f"question {shown(table['question'][int(row)].as_py())}: its {part} holds what format.{setting} writes "
            f"({self._templates[setting]!r}), where a model's answer is cut off; choose one that is in no row."
        )

    def _table_by_rows(self, rows: RecordColumns) -> pa.Table:
        records = rows.records()
        token_rows = tokenize_rows(records, self._templates, self._tokenizer)
        for record, row in zip(records, token_rows, strict=True):
            self._check_separators(record, row)
        columns = {
            "question_ids": [row["question"] for row in token_rows],
            "cot_ids": [row["cot"] for row in token_rows],
            "answer_ids": [row["answer"] + row["end"] for row in token_rows],
            "cot_step_lengths": [row["cot_step_lengths"] for row in token_rows],
        }
        return _table(rows, {name: pa.array(lists, IDS) for name, lists in columns.items()})

    def _check_separators(self, record: CoTRecord, row: dict[str, list[int]]) -> None:
        for name, expected in zip(SEPARATORS, self.separators, strict=True):
            if row[name] != expected:
                raise UserError(
                    f"question {shown(record.question)}: format.{name} makes the tokens {row[name]} here and "
                    f"{expected} in the first row; choose a separator that is a token of its own, such as {{eos}}."
                )


def _table(rows: RecordColumns, columns: dict[str, pa.Array]) -> pa.Table:
    named = {"question": rows.questions, "answer": rows.answers, **columns}
    return pa.table([named[name] for name in SCHEMA.names], schema=SCHEMA)


def _rows_with(token: int, lists: pa.ListArray) -> np.ndarray:
    """Return the numbers of the rows whose list holds a token, as often as it does."""
    places = np.flatnonzero(lists.flatten().to_numpy() == token)
    return np.searchsorted(lists.offsets.to_numpy() - lists.offsets[0].as_py(), places, side="right") - 1


class TokenLists:
    """A column of token lists, read where it lies (in a memory-mapped file) without a copy."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._chunks = [
            (memoryview(chunk.offsets.to_numpy()), memoryview(chunk.values.to_numpy())) for chunk in column.chunks
        ]
        self._begins = begins_of([len(chunk) for chunk in column.chunks])

    def take(self, rows: np.ndarray) -> list[tuple[int, ...]]:
        """Return the lists at the given row numbers, in that order.

        Raises:
            IndexError: If a number is negative or beyond the last row.
        """
        if len(rows) and not 0 <= rows.min() <= rows.max() < self._begins[-1]:
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {self._begins[-1]}")
        chunk_numbers = np.searchsorted(self._begins, rows, side="right") - 1
        places = rows - self._begins[chunk_numbers]
        lists = []
        for chunk_number, place in zip(chunk_numbers.tolist(), places.tolist(), strict=True):
            begins, values = self._chunks[chunk_number]
            lists.append(tuple(values[begins[place] : begins[place + 1]].tolist()))
        return lists
