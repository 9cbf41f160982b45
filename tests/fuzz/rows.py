"""Files of rows in every format, right and broken."""

import codecs
import json
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.cases import damaged

WORDS = st.sampled_from(
    ["a", "1 2", "b|", "|c", "é", "<<1+1=2>>", "<<1+1=2>> <<2*2=4>>", "x | y", "a\u2028b", "日本", "😀", "- 3"]
)
QUESTIONS = st.sampled_from(["q", "r s"]) | st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
TEXTS = st.sampled_from(["1", "2 3"]) | st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
COTS = TEXTS | st.just("")

# Right rows, each with the question, steps and answer that are to be read.
RIGHT_OBJECTS = st.one_of(
    st.builds(lambda q, s, a: ({"question": q, "steps": s, "answer": a}, q, s, a), QUESTIONS, st.lists(TEXTS), TEXTS),
    st.builds(
        lambda q, a: ({"question": q, "answer": f"So <<1+1=2>>2,\nthen <<2*2=4>>.\n#### {a}", "cot": None}, q, None, a),
        QUESTIONS,
        TEXTS,
    ).map(lambda row: (row[0], row[1], ["<<1+1=2>>", "<<2*2=4>>"], row[3])),
)
OBJECTS = RIGHT_OBJECTS.map(lambda row: row[0])
TEXT_ROWS = st.builds("{}||{} #### {}".format, QUESTIONS, COTS, TEXTS)
PLAIN_TEXT_ROWS = st.sampled_from(["1 * 2||3 4 ( 5 ) #### 6 7", "q||<<1+1=2>> <<2+2=4>> #### 4", "q|| #### 7"])

# Rows whose parts are what they should not be.
PIECES = ["q", "||", "|", "####", " #### ", "#", " ", "c", "1", "\t", "\r", "\x00", "\x0c", "\ufeff", "q||c #### 1"]
BROKEN_TEXT_ROWS = st.lists(st.sampled_from(PIECES), max_size=7).map("".join)
BROKEN_VALUES = st.sampled_from(
    [
        *(
            '"q"',
            '"c"',
            '" "',
            '""',
            '"a||b"',
            '"#### 1"',
            '"<<1+1=2>> #### 2"',
            '"<<1 #### 2"',
            '"\\ud800"',
            '"\\u0000"',
        ),
        *('"\\ud83d\\ude00"', '"a\\nb\\r"', "null", "true", "1", "NaN", "-Infinity", "1e999", "9" * 5000, "[" * 2000),
        *('{"a":' * 2000, "[" * 300 + "]" * 300, "[]", '["a", "b"]', '["a", " "]', "[1]", "{}", "'q'", ""),
    ]
)
KEYS = st.sampled_from(["question", "answer", "steps", "cot", "prediction", "Question", ""])
FIELDS = st.builds('"{}": {}'.format, KEYS, BROKEN_VALUES)
BROKEN_OBJECTS = st.one_of(
    st.lists(FIELDS, max_size=4).map(lambda fields: f"{{{', '.join(fields)}}}"),
    FIELDS.map(lambda field: f'{{"question": "q", "steps": [], "answer": "1", {field}}}'),  # the last of a name counts
    BROKEN_VALUES,
)


def dumped(row: Any) -> st.SearchStrategy[str]:
    return st.sampled_from([json.dumps(row), json.dumps(row, ensure_ascii=False)])


LINE_ENDS = st.sampled_from(["\n", "\r\n"])


def lines(rows: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    """Return files of such lines."""
    several = st.lists(rows | rows | st.just(""), max_size=6)
    return st.builds(lambda found, end: (end.join(found) + end).encode(), several, LINE_ENDS)


def array(rows: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    """Return files of a JSON array of such elements."""
    between = st.sampled_from([",", ", ", ",\n", "\n,"])
    return st.builds(lambda found, comma: f"[{comma.join(found)}]".encode(), st.lists(rows, max_size=6), between)


OBJECT_ROWS = OBJECTS.flatmap(dumped)
MIXED_TEXT_FILES = lines(TEXT_ROWS | PLAIN_TEXT_ROWS | BROKEN_TEXT_ROWS)
LATIN_1_FILES = MIXED_TEXT_FILES.map(lambda content: content.replace(b"q", b"\xe9t\xe9"))
TEXT_FILES = lines(TEXT_ROWS) | lines(PLAIN_TEXT_ROWS) | MIXED_TEXT_FILES
JSONL_FILES = lines(OBJECT_ROWS) | lines(OBJECT_ROWS | BROKEN_OBJECTS)
JSON_FILES = array(OBJECT_ROWS) | array(OBJECT_ROWS | BROKEN_OBJECTS)
NUMBERS = array(st.sampled_from(["12", "345", "-1.25e+10", "1E5", "0.5", "-Infinity"]) | OBJECT_ROWS)
FILES = damaged(TEXT_FILES) | LATIN_1_FILES | damaged(JSONL_FILES) | damaged(JSON_FILES)
NAMES = st.sampled_from(["rows.txt", "rows.jsonl", "rows.json", "rows.data", "rows"])
FORMATS = st.sampled_from(["auto", "text", "jsonl", "json", "gsm8k"])


def num_lines(content: bytes) -> int:
    """Return the lines up to the last that is not blank: as many rows must be read or be reported."""
    return len(content.removeprefix(codecs.BOM_UTF8).rstrip().split(b"\n")) if num_filled(content) else 0


def num_filled(content: bytes) -> int:
    """Return the lines that are not blank."""
    return sum(bool(line.strip()) for line in content.removeprefix(codecs.BOM_UTF8).split(b"\n"))


def elements(content: bytes) -> list[Any] | None:
    """Return the elements of a JSON array; none of an empty file; None if it is something else."""
    try:
        loaded = json.loads(content.decode("utf-8-sig").strip(" \t\r\n") or "[]")
    except (ValueError, RecursionError):
        return None
    return loaded if isinstance(loaded, list) else None
