"""Writes records as text or JSON lines that the readers read back."""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from pipeline.errors import UserError, shortened
from pipeline.records.record import CoTRecord, is_split_text
from pipeline.records.rows import RowError, parse_text_row


def to_text_line(record: CoTRecord) -> str:
    """Return ``question||cot #### answer``, without line end.

    Raises:
        UserError: If the line would not read back as this record.
    """
    for name, text in (("question", record.question), ("chain of thought", record.cot), ("answer", record.answer)):
        for mark in ("||", "####", "\n", "\r"):
            if mark in text:
                raise UserError(
                    f"{name} {shortened(text, 60)!r} holds {mark!r}, so text would not read back; write .jsonl instead."
                )
    line = f"{record.question}||{record.cot} #### {record.answer}"
    try:
        read_back = parse_text_row(line)
    except RowError as error:
        raise UserError(f"row {shortened(line, 60)!r} cannot be read back from text: {error}.") from error
    if (read_back.question, read_back.cot, read_back.answer) != (record.question, record.cot, record.answer):
        raise UserError(
            f"row {shortened(line, 60)!r} would read back differently: a field begins or ends with a blank or `|`; "
            "write .jsonl instead."
        )
    return line


def to_json_line(record: CoTRecord) -> str:
    """Return a JSON object with ``question``, ``steps`` or ``cot``, and ``answer``, without line end."""
    reasoning = {"cot": record.cot} if is_split_text(record.steps) else {"steps": record.steps}
    row = {"question": record.question, **reasoning, "answer": record.answer}
    return json.dumps(row, ensure_ascii=False)


LINE_WRITERS = {".txt": to_text_line, ".jsonl": to_json_line}


def check_output_path(path: Path, overwrite: bool) -> None:
    """Refuse an output before any work is done for it.

    Raises:
        UserError: If the extension names no format, or the file exists and ``overwrite`` is false.
    """
    if path.suffix not in LINE_WRITERS:
        raise UserError(f"{path}: unknown extension {path.suffix!r}; end the name in .txt (text) or .jsonl.")
    if os.path.isdir(path):
        raise UserError(f"{path}: is a directory; name a file in it.")
    if os.path.exists(path) and not overwrite:
        raise UserError(f"{path}: exists already; name another file, or add --overwrite.")


def write_records(path: Path, records: Iterable[CoTRecord]) -> int:
    """Write records beside the file, then rename, so that a reader never sees half of it.

    Args:
        path: ``.txt`` for text, ``.jsonl`` for JSON lines; replaced if it exists. Missing folders are made.
        records: Written in order.

    Returns:
        The number of rows.

    Raises:
        UserError: If the extension names no format, a record does not fit it, or the file cannot be written.
    """
    check_output_path(path, overwrite=True)
    return write_lines(path, map(LINE_WRITERS[path.suffix], records))


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Write rows that are lines already, as ``write_records`` does.

    Raises:
        UserError: If the file cannot be written.
    """
    return write_together({path: lines})[path]


def write_together(lines_of: Mapping[Path, Iterable[str]]) -> dict[Path, int]:
    """Write several files as ``write_lines`` does; none takes its place before all are whole.

    Args:
        lines_of: File to its rows.

    Returns:
        The number of rows of each file.

    Raises:
        UserError: If a file cannot be written.
    """
    unfinished = {path: path.with_name(f".{path.name}.{os.getpid()}.unfinished") for path in lines_of}
    num_rows = dict.fromkeys(lines_of, 0)
    try:
        for path, lines in lines_of.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished[path].open("w", encoding="utf-8", newline="\n") as handle:
                for line in lines:
                    handle.write(line + "\n")
                    num_rows[path] += 1
                handle.flush()
                os.fsync(handle.fileno())
        for path, file in unfinished.items():
            file.replace(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); check folder, permissions and space."
        ) from error
    finally:
        for file in unfinished.values():
            with suppress(OSError):  # it may never have been made
                file.unlink()
    return num_rows
