"""Turns one raw row (a line, or a JSON object) into a record. Pure; a broken row raises ``RowError``."""

import json
import re
from collections.abc import Callable
from typing import Any

from pipeline.records.record import CoTRecord, split_steps

EQUATION = re.compile(r"<<.*?>>")  # stays within a line: `<<` in one line and `>>` in another are two broken equations


class RowError(ValueError):
    """What is wrong with one row and how to mend it; the caller adds file and line."""


def parse_text_row(row: str) -> CoTRecord:
    """Read ``question||cot #### answer``. Blanks around the fields are dropped.

    Raises:
        RowError: If a separator is missing or doubled, or question or answer is empty.
    """
    if not row.strip():
        raise RowError("blank line between rows; delete it")
    if "\r" in row or "\n" in row:
        raise RowError("a line break inside the row; write one row a line, or use JSONL")
    question, bars, rest = row.partition("||")
    if not bars:
        raise RowError("no `||`; write `question||cot #### answer`")
    # Searched from the second character on, so that `|||` and `#####` count as doubled: they could be cut in two ways.
    if row.find("||", len(question) + 1) != -1:
        raise RowError("a second `||`; a row has one, so take it out of the text or use JSONL")
    marker = row.find("####")
    if marker == -1:
        raise RowError("no `####`; write `question||cot #### answer`")
    if row.find("####", marker + 1) != -1:
        raise RowError("a second `####`; a row has one, so take it out of the text or use JSONL")
    cot, separator, answer = f" {rest} ".partition(" #### ")
    if not separator:
        raise RowError("`####` must come after `||` with a blank on both sides; write `question||cot #### answer`")
    return _checked(question, split_steps(cot.strip()), answer)


def parse_json_row(row: str) -> CoTRecord:
    """Read a JSON object as ``record_from_object`` does."""
    return record_from_object(parse_json_object(row))


def parse_gsm8k_row(row: str) -> CoTRecord:
    """Read a line of GSM8K's own JSONL as ``record_from_gsm8k`` does."""
    return record_from_gsm8k(parse_json_object(row))


def parse_json_object(row: str) -> dict[str, Any]:
    """Read a line that holds one JSON object.

    Raises:
        RowError: If the line is blank, is not JSON, or holds something else.
    """
    if not row.strip():
        raise RowError("blank line between rows; delete it")
    try:
        loaded = json.loads(row)
    except json.JSONDecodeError as error:
        raise RowError(f"not valid JSON ({error.msg} at column {error.colno}); write one JSON object a line") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of nested brackets
        raise RowError(f"not usable JSON ({error}); write one JSON object a line") from error
    return _as_object(loaded)


def record_from_object(row: object) -> CoTRecord:
    """Make a record from ``question``, ``answer``, and ``cot`` (text) or ``steps`` (list of texts).

    A row with neither ``cot`` nor ``steps`` whose answer holds ``<<`` or ``####`` is GSM8K's own. A null value counts
    as absent, because a table on the Hub has every column in every row.

    Raises:
        RowError: If a key is missing, has the wrong type, or is empty.
    """
    fields = _as_object(row)
    has_cot, has_steps = fields.get("cot") is not None, fields.get("steps") is not None
    if has_cot and has_steps:
        raise RowError("both `cot` and `steps`; keep one of them")
    question, answer = _text(fields, "question"), _text(fields, "answer")
    if has_cot:
        return _checked(question, split_steps(_text(fields, "cot").strip()), answer)
    if has_steps:
        return _checked(question, _steps(fields["steps"]), answer)
    if "####" in answer or "<<" in answer:
        return record_from_gsm8k(fields)
    raise RowError('neither `cot` nor `steps`; add one (`"steps": []` for a row without a chain of thought)')


def record_from_gsm8k(row: object) -> CoTRecord:
    """Make a record from GSM8K's own form: the ``<<..>>`` equations of the worked solution are the steps.

    Args:
        row: Object with ``question`` and ``answer``, the answer being the solution and ``#### final``.

    Raises:
        RowError: If ``####`` is missing or doubled, or an equation is not closed.

    Source: arXiv:2405.14838, section 4.
    """
    fields = _as_object(row)
    question, (solution, *finals) = _text(fields, "question"), _text(fields, "answer").split("####")
    if not finals:
        raise RowError("no `####` in `answer`; GSM8K's answers end with `#### final`")
    if len(finals) > 1:
        raise RowError("a second `####` in `answer`; keep the last one only")
    equations = EQUATION.findall(solution)
    if not len(equations) == solution.count("<<") == solution.count(">>"):
        raise RowError("`<<` without `>>`, or `>>` without `<<`, in `answer`; close the equation on its line")
    return _checked(question, tuple(equations), finals[0])


def decoded(convert: Callable[[str], CoTRecord]) -> Callable[[bytes], CoTRecord]:
    """Return ``convert`` for a row that is still bytes."""
    return lambda row: convert(decode(row))


def decode(row: bytes) -> str:
    """Decode UTF-8.

    Raises:
        RowError: If the bytes are something else.
    """
    try:
        return row.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowError(f"not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8") from error


def _as_object(row: object) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise RowError(f"holds {_type_name(row)}; a row is an object with `question`, `steps` or `cot`, and `answer`")
    return row


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key)
    if value is None:
        raise RowError(f"no `{key}`; add it as a string")
    if not isinstance(value, str):
        raise RowError(f"`{key}` is {_type_name(value)}; write it as a string")
    return value


def _steps(steps: object) -> tuple[str, ...]:
    if not isinstance(steps, list):
        raise RowError(f"`steps` is {_type_name(steps)}; write a list of strings, or call the key `cot`")
    for number, step in enumerate(steps, start=1):
        if not isinstance(step, str):
            raise RowError(f"step {number} of `steps` is {_type_name(step)}; write it as a string")
        if not step.strip():
            raise RowError(f"step {number} of `steps` is empty; delete it")
    return tuple(step.strip() for step in steps)


def _type_name(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _checked(question: str, steps: tuple[str, ...], answer: str) -> CoTRecord:
    record = CoTRecord(question.strip(), steps, answer.strip())
    for name, text in (("question", record.question), ("answer", record.answer)):
        if not text:
            raise RowError(f"empty {name}; fill it in or delete the row")
    # JSON can spell half of a surrogate pair, which no UTF-8 file and no tokenizer can take.
    if re.search("[\ud800-\udfff]", f"{record.question}{record.cot}{record.answer}"):
        raise RowError("half a surrogate pair (`\\ud800` to `\\udfff`) in the text; take it out")
    return record
