"""Turns one raw row (a line, or a JSON object) into a record. Pure; a broken row raises ``RowError``."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.records.chat import read_messages
from pipeline.records.record import CoTRecord, split_steps
from pipeline.records.row_error import RowError, type_name

EQUATION = re.compile(r"<<.*?>>")  # stays within a line: `<<` in one line and `>>` in another are two broken equations
FIELDS = ("question", "cot", "steps", "answer", "messages")
OWN_NAMES = {name: name for name in FIELDS}
"""Where a row has which field, unless told otherwise."""
RENAME = "tell with columns.* what it is called"


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


def parse_json(row: str) -> Any:
    """Read a line that holds one JSON value.

    Raises:
        RowError: If the line is blank or is not JSON.
    """
    if not row.strip():
        raise RowError("blank line between rows; delete it")
    try:
        return json.loads(row)
    except json.JSONDecodeError as error:
        raise RowError(f"not valid JSON ({error.msg} at column {error.colno}); write one JSON object a line") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of nested brackets
        raise RowError(f"not usable JSON ({error}); write one JSON object a line") from error


def record_from_object(row: object, names: Mapping[str, str] = OWN_NAMES) -> CoTRecord:
    """Make a record from ``question``, ``answer``, and ``cot`` (text) or ``steps`` (list), or from ``messages``.

    A row with neither ``cot`` nor ``steps`` whose answer holds ``<<`` or ``####`` is GSM8K's own. A null value counts
    as absent, because a table on the Hub has every column in every row.

    Args:
        row: Object with the fields; further keys are not read.
        names: Field to the key that it has in the row.

    Raises:
        RowError: If a key is missing, has the wrong type, or is empty, or there are more of them than a row has.
    """
    fields = _as_object(row, names)
    if fields.get(names["messages"]) is not None:
        return _record_from_messages(fields, names)
    has_cot, has_steps = fields.get(names["cot"]) is not None, fields.get(names["steps"]) is not None
    if has_cot and has_steps:
        raise RowError(f"both `{names['cot']}` and `{names['steps']}`; keep one of them")
    question, answer = _text(fields, names["question"]), _text(fields, names["answer"])
    if has_cot:
        return _checked(question, split_steps(_text(fields, names["cot"]).strip()), answer)
    if has_steps:
        return _checked(question, _steps(fields[names["steps"]], names), answer)
    if "####" in answer or "<<" in answer:
        return record_from_gsm8k(fields, names)
    raise RowError(
        f"neither `{names['cot']}` nor `{names['steps']}`; add `{names['cot']}`, empty for a row without a chain of "
        f"thought, or {RENAME}"
    )


def record_from_gsm8k(row: object, names: Mapping[str, str] = OWN_NAMES) -> CoTRecord:
    """Make a record from GSM8K's own form: the ``<<..>>`` equations of the worked solution are the steps.

    Args:
        row: Object with ``question`` and ``answer``, the answer being the solution and ``#### final``.
        names: As in ``record_from_object``.

    Raises:
        RowError: If ``####`` is missing or doubled, or an equation is not closed.

    Source: arXiv:2405.14838, section 4.
    """
    fields, key = _as_object(row, names), names["answer"]
    question, (solution, *finals) = _text(fields, names["question"]), _text(fields, key).split("####")
    if not finals:
        raise RowError(f"no `####` in `{key}`; GSM8K's answers end with `#### final`")
    if len(finals) > 1:
        raise RowError(f"a second `####` in `{key}`; keep the last one only")
    equations = EQUATION.findall(solution)
    if not len(equations) == solution.count("<<") == solution.count(">>"):
        raise RowError(f"`<<` without `>>`, or `>>` without `<<`, in `{key}`; close the equation on its line")
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


def _record_from_messages(fields: dict[str, Any], names: Mapping[str, str]) -> CoTRecord:
    others = [names[name] for name in FIELDS if name != "messages" and fields.get(names[name]) is not None]
    if others:
        raise RowError(
            f"both `{names['messages']}` and `{others[0]}`; keep one of them, or tell with columns.* that the other is "
            "called something that no row has"
        )
    question, reasoning, answer = read_messages(fields[names["messages"]], names["messages"])
    return _checked(question, split_steps(reasoning), answer)


def _as_object(row: object, names: Mapping[str, str] = OWN_NAMES) -> dict[str, Any]:
    if not isinstance(row, dict):
        question, steps, cot, answer = (names[name] for name in ("question", "steps", "cot", "answer"))
        raise RowError(
            f"holds {type_name(row)}; a row is an object with `{question}`, `{steps}` or `{cot}`, and `{answer}`"
        )
    return row


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key)
    if value is None:
        raise RowError(f"no `{key}`; add it as a string, or {RENAME}")
    if not isinstance(value, str):
        raise RowError(f"`{key}` is {type_name(value)}; write it as a string")
    return value


def _steps(steps: object, names: Mapping[str, str]) -> tuple[str, ...]:
    key = names["steps"]
    if not isinstance(steps, list):
        raise RowError(f"`{key}` is {type_name(steps)}; write a list of strings, or call the key `{names['cot']}`")
    for number, step in enumerate(steps, start=1):
        if not isinstance(step, str):
            raise RowError(f"step {number} of `{key}` is {type_name(step)}; write it as a string")
        if not step.strip():
            raise RowError(f"step {number} of `{key}` is empty; delete it")
    return tuple(step.strip() for step in steps)


def _checked(question: str, steps: tuple[str, ...], answer: str) -> CoTRecord:
    record = CoTRecord(question.strip(), steps, answer.strip())
    for name, text in (("question", record.question), ("answer", record.answer)):
        if not text:
            raise RowError(f"empty {name}; fill it in or delete the row")
    # JSON can spell half of a surrogate pair, which no UTF-8 file and no tokenizer can take.
    if re.search("[\ud800-\udfff]", f"{record.question}{record.cot}{record.answer}"):
        raise RowError("half a surrogate pair (`\\ud800` to `\\udfff`) in the text; take it out")
    return record
