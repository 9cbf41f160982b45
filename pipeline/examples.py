"""Rows as token ids: tokenised once, kept in an Arrow cache, read memory-mapped."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock
from transformers import PreTrainedTokenizerBase

from pipeline.config import DataConfig, FormatConfig
from pipeline.errors import UserError
from pipeline.layout import SequenceLayout
from pipeline.manifest import incomplete, put_in_place, write_manifest
from pipeline.records import BadRow, read_records
from pipeline.records.columns import read_columns
from pipeline.records.streams import open_for_reading
from pipeline.removal import CoTExample, Unit
from pipeline.row_text import resolve_format
from pipeline.token_table import SCHEMA, RowTokenizer, TokenLists

CACHE_VERSION = 2  # raise it when the content of the cache changes


class ExampleSet:
    """Tokenised rows on disk, and the layout they share.

    Attributes:
        rows: An Arrow table with the columns of ``SCHEMA``.
        layout: Separators of every row.
        num_too_long: Rows dropped for being longer than ``data.max_tokens``.
        bad_rows: Broken rows that were skipped, as text.
        content: SHA-256 of the source, before anything was dropped.
    """

    def __init__(
        self,
        rows: pa.Table,
        layout: SequenceLayout,
        num_too_long: int = 0,
        bad_rows: Sequence[str] = (),
        content: str = "",
    ) -> None:
        self.rows = rows
        self._ids = [TokenLists(rows[name]) for name in ("question_ids", "cot_ids", "answer_ids", "cot_step_lengths")]
        self.layout = layout
        self.num_too_long = num_too_long
        self.bad_rows = tuple(bad_rows)
        self.content = content

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Sequence[int] | np.ndarray) -> list[CoTExample]:
        """Return the examples at the given row numbers, in that order."""
        numbers = np.asarray(indices, dtype=np.int64)
        return [CoTExample(*lists) for lists in zip(*(column.take(numbers) for column in self._ids), strict=True)]

    def texts(self, column: str, indices: Sequence[int]) -> list[str]:
        """Return the ``question`` or ``answer`` texts at the given row numbers."""
        texts = self.rows[column]
        return [texts[int(index)].as_py() for index in indices]

    def questions(self) -> pa.ChunkedArray:
        """Return the questions as they are compared: more blanks make no other question."""
        return pc.utf8_trim_whitespace(pc.replace_substring_regex(self.rows["question"], r"\s+", " "))

    def head(self, num_rows: int | None) -> "ExampleSet":
        """Return the first ``num_rows`` rows (all for None) as a set of their own."""
        if num_rows is None or num_rows >= len(self):
            return self
        return ExampleSet(self.rows[:num_rows], self.layout, self.num_too_long, self.bad_rows, self.content)

    def select(self, indices: Sequence[int] | np.ndarray) -> "ExampleSet":
        """Return the rows with the given numbers as a set of their own."""
        rows = self.rows.take(pa.array(indices, pa.int64()))
        return ExampleSet(rows, self.layout, self.num_too_long, self.bad_rows, self.content)

    def lengths(self, column: str) -> np.ndarray:
        """Return the list lengths of a token column, (num_rows,) integers."""
        return np.concatenate(
            [pc.list_value_length(chunk).to_numpy(zero_copy_only=False) for chunk in self.rows[column].chunks]
        )

    def longest_cot(self, unit: Unit) -> int:
        """Return the units (tokens or steps) in the longest CoT."""
        return int(self.lengths("cot_ids" if unit == "token" else "cot_step_lengths").max())

    def longest_row(self, longest_cot: int | None = None) -> int:
        """Return the positions that the longest full row takes.

        Args:
            longest_cot: With kept positions, the tokens of the CoT behind which every row's answer stands.
        """
        separators = len(self.layout.first_separator_ids) + len(self.layout.second_separator_ids)
        cot_lengths = self.lengths("cot_ids")
        if longest_cot is not None:
            cot_lengths = np.maximum(cot_lengths, longest_cot)
        return int((self.lengths("question_ids") + cot_lengths + self.lengths("answer_ids")).max()) + separators


def load_examples(
    source: str, split: str, config: DataConfig, row_format: FormatConfig, tokenizer: PreTrainedTokenizerBase
) -> ExampleSet:
    """Tokenise a source, or find it in the cache.

    The cache's key is the source's content, the tokenizer and the format, so a changed file is never mistaken for
    the old one. Processes that ask at the same time wait for the one that builds.

    Args:
        source: A file, or a Hub name.
        split: Split of a Hub data set; files have none.
        config: Where and how to read, and the longest row allowed.
        row_format: How a row is written.
        tokenizer: A fast tokenizer.

    Raises:
        UserError: If the source cannot be read, or a row cannot be tokenised as the format asks.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"model.tokenizer ({tokenizer.name_or_path}) is not a fast tokenizer; give a folder with tokenizer.json."
        )
    templates = resolve_format(row_format, tokenizer)
    content = _content_of(source, split, config)
    folder = Path(config.cache_dir).expanduser() / _cache_key(content, source, config, templates, tokenizer)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"data.cache_dir ({config.cache_dir}): cannot be made ({error.strerror}); choose another."
        ) from error
    try:
        with FileLock(f"{folder}.lock"):
            if (cached := _cached(folder)) is None:
                _build(folder, source, split, config, templates, tokenizer, content)
                cached = _cached(folder)
    except PermissionError as error:
        raise UserError(
            f"data.cache_dir ({config.cache_dir}): may not be written to ({error.filename}); choose another."
        ) from error
    assert cached is not None
    meta, rows = cached
    bad_rows = [f"{source}:{line}: {reason}" for line, reason in meta["bad_rows"]]
    layout = make_layout(meta["separators"], row_format, tokenizer)
    return ExampleSet(rows, layout, meta["num_too_long"], bad_rows, content)


def open_rows(path: Path) -> pa.Table:
    """Return the table of an Arrow stream where it lies on disk: the mapping lasts as long as the table.

    Raises:
        OSError: If the file is not there.
        ValueError: If it is no such stream.
    """
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
        return reader.read_all()


def make_layout(
    separators: Sequence[Sequence[int]], row_format: FormatConfig, tokenizer: PreTrainedTokenizerBase
) -> SequenceLayout:
    """Return the layout of rows whose ``SEPARATORS`` have these ids."""
    first, second, end = separators
    return SequenceLayout(
        tuple(first),
        tuple(second),
        end_id=end[0],
        pad_id=end[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        keep_second_separator=row_format.keep_second_separator,
    )


def contents(train: ExampleSet, validation: ExampleSet) -> dict[str, str]:
    """Return the hash of each source's content, by setting."""
    return {"data.train": train.content, "data.validation": validation.content}


def assert_disjoint(train: ExampleSet, other: ExampleSet, name: str) -> None:
    """Refuse evaluation rows whose question is also a training question.

    Raises:
        UserError: Naming the number of shared questions and one of them.
    """
    asked = pc.unique(other.questions())
    shared = asked.filter(pc.is_in(asked, value_set=pc.unique(train.questions())))
    if len(shared):
        raise UserError(
            f"data.{name}: {len(shared)} of its questions are training questions too, such as {shared[0].as_py()!r}; "
            "take them out of one of the two files (`tacit data split` makes disjoint ones)."
        )


def _content_of(source: str, split: str, config: DataConfig) -> str:
    """Return a hash of a source's content."""
    path = Path(source)
    if path.is_file():
        with open_for_reading(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    # A Hub name: its rows are its content; this also tells the user of a source that is not there.
    digest = hashlib.sha256()
    bad_rows: list[BadRow] = []
    records = read_records(
        source,
        source_format=config.source_format,
        split=split,
        columns=asdict(config.columns),
        on_bad_row="skip",
        bad_rows=bad_rows,
    )
    for record in records:
        digest.update(repr(record).encode())
    digest.update(repr([(row.line, row.reason) for row in bad_rows]).encode())
    return digest.hexdigest()


def _cache_key(
    content: str, source: str, config: DataConfig, templates: dict[str, str], tokenizer: PreTrainedTokenizerBase
) -> str:
    tokenizer_state = tokenizer.backend_tokenizer.to_str()
    source_format = Path(source).suffix if config.source_format == "auto" else config.source_format
    settings = [CACHE_VERSION, source_format, asdict(config.columns), config.on_bad_row, config.max_tokens, templates]
    special = [tokenizer.special_tokens_map, getattr(tokenizer, "split_special_tokens", False)]
    key = json.dumps([content, *settings, *special, tokenizer_state], default=str)
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _build(
    folder: Path,
    source: str,
    split: str,
    config: DataConfig,
    templates: dict[str, str],
    tokenizer: PreTrainedTokenizerBase,
    content: str,
) -> None:
    """Write the folder; a source that is changed meanwhile has other content than the folder is named after.

    Raises:
        UserError: If it was, or all rows are too long, or one is broken.
    """
    bad_rows: list[BadRow] = []
    num_too_long = num_rows = 0
    temporary = incomplete(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        batches = read_columns(
            source,
            source_format=config.source_format,
            split=split,
            columns=asdict(config.columns),
            on_bad_row=config.on_bad_row,
            bad_rows=bad_rows,
        )
        row_tokenizer = RowTokenizer(templates, tokenizer)
        path = str(temporary / "rows.arrow")
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
            for batch in batches:
                table = row_tokenizer.table(batch)
                if config.max_tokens is not None:
                    fits = row_tokenizer.num_tokens(table) <= config.max_tokens
                    num_too_long += int((~fits).sum())
                    table = table.filter(fits)
                num_rows += len(table)
                writer.write_table(table.combine_chunks())
        if not num_rows:
            raise UserError(
                f"{source}: all {num_too_long} rows are longer than data.max_tokens ({config.max_tokens}); raise it."
            )
        if Path(source).is_file() and _content_of(source, split, config) != content:
            raise UserError(f"{source}: was changed while it was read; start again when it is whole.")
        meta = {
            "num_rows": num_rows,
            "separators": row_tokenizer.separators,
            "num_too_long": num_too_long,
            "bad_rows": [(row.line, row.reason) for row in bad_rows],
        }
        (temporary / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        write_manifest(temporary)
        put_in_place(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _cached(folder: Path) -> tuple[dict[str, Any], pa.Table] | None:
    """Return what is known of the rows, and the rows; None if they are not there, or not whole."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        rows = open_rows(folder / "rows.arrow")
        return (meta, rows) if len(rows) == meta["num_rows"] else None
    except (OSError, ValueError, KeyError):
        return None
