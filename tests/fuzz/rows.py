"""Files of rows in every format, right and broken."""

import codecs
import csv
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from pipeline.records.chat import to_question
from tests.fuzz.cases import damaged

WORDS = st.sampled_from(
    ["a", "1 2", "b|", "|c", "é", "<<1+1=2>>", "<<1+1=2>> <<2*2=4>>", "x | y", "a\u2028b", "日本", "😀", "- 3"]
)
QUESTIONS = st.sampled_from(["q", "r s"]) | st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
TEXTS = st.sampled_from(["1", "2 3"]) | st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
COTS = TEXTS | st.just("")


def chat_row(
    questions: list[str], lines: list[str], answer: str, key: str | None
) -> tuple[dict[str, Any], str, list[str], str]:
    """Return a row of messages, and what is to be read of it; the first of several questions is the system's."""
    asked = [{"role": "user", "content": question} for question in questions]
    asked[0]["role"] = "user" if len(asked) == 1 else "system"
    reasoning = "\n\n".join(lines)
    content = answer if key else f"<think>\n{reasoning}\n</think>\n\n{answer}"
    last = {"role": "assistant", "content": content, **({key: f"{reasoning}\n"} if key else {})}
    steps = [f"{line}\n\n" for line in lines[:-1]] + lines[-1:]
    return {"messages": [*asked, last]}, to_question(asked), steps, answer


# Right rows, each with the question, steps and answer that are to be read.
RIGHT_OBJECTS = st.one_of(
    st.builds(
        chat_row,
        st.lists(QUESTIONS, min_size=1, max_size=3),
        st.just([]) | st.lists(TEXTS, min_size=2, max_size=3),
        TEXTS,
        st.sampled_from([None, None, "reasoning_content", "thinking", "reasoning"]),
    ),
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
        *('[{"role": "user", "content": "q"}]', '[{"role": "user"}, {"role": "assistant", "content": "<think>"}]'),
        '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>c</think>1"}]',
    ]
)
KEYS = st.sampled_from(["question", "answer", "steps", "cot", "messages", "prediction", "Question", ""])
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


Cells = list[tuple[str, str, str]]
CELLS = st.tuples(QUESTIONS, COTS | st.just("a\nb") | st.just('"a", b'), TEXTS)
HEADERS = st.permutations(["question", "cot", "answer"]).map(tuple)


def csv_table(header: tuple[str, ...], rows: Cells, quoting: Any, line_end: str) -> bytes:
    """Return a file of comma-separated values; each row is question, CoT and answer."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, header, quoting=quoting, lineterminator=line_end)
    writer.writeheader()
    writer.writerows(dict(zip(("question", "cot", "answer"), row, strict=True)) for row in rows)
    return text.getvalue().encode()


def parquet_table(header: tuple[str, ...], rows: Cells, compression: str) -> bytes:
    """Return a Parquet file; each row is question, CoT and answer."""
    columns = dict(zip(("question", "cot", "answer"), zip(*rows, strict=True), strict=True)) if rows else {}
    table = pa.table({name: pa.array(columns.get(name, ()), pa.string()) for name in header})
    file = pa.BufferOutputStream()
    pq.write_table(table, file, row_group_size=2, compression=compression)
    return file.getvalue().to_pybytes()


OBJECT_ROWS = OBJECTS.flatmap(dumped)
MIXED_TEXT_FILES = lines(TEXT_ROWS | PLAIN_TEXT_ROWS | BROKEN_TEXT_ROWS)
LATIN_1_FILES = MIXED_TEXT_FILES.map(lambda content: content.replace(b"q", b"\xe9t\xe9"))
TEXT_FILES = lines(TEXT_ROWS) | lines(PLAIN_TEXT_ROWS) | MIXED_TEXT_FILES
JSONL_FILES = lines(OBJECT_ROWS) | lines(OBJECT_ROWS | BROKEN_OBJECTS)
JSON_FILES = array(OBJECT_ROWS) | array(OBJECT_ROWS | BROKEN_OBJECTS)
NUMBERS = array(st.sampled_from(["12", "345", "-1.25e+10", "1E5", "0.5", "-Infinity"]) | OBJECT_ROWS)
QUOTING = st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
CSV_FILES = st.builds(csv_table, HEADERS, st.lists(CELLS, max_size=4), QUOTING, LINE_ENDS)
PARQUET_FILES = st.builds(
    parquet_table, HEADERS, st.lists(CELLS, max_size=5), st.sampled_from(["none", "snappy", "gzip"])
)
FILES = damaged(TEXT_FILES) | LATIN_1_FILES | damaged(JSONL_FILES) | damaged(JSON_FILES) | damaged(CSV_FILES)
NAMES = st.sampled_from(["rows.txt", "rows.jsonl", "rows.json", "rows.csv", "rows.data", "rows"])
FORMATS = st.sampled_from(["auto", "text", "jsonl", "json", "csv", "gsm8k"])


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


def num_csv_rows(content: bytes) -> int | None:
    """Return the rows below the header of comma-separated values, blank lines between them too.

    Blank lines before the header and at the end do not count. None stands for a file that cannot be cut into rows.
    """
    text = content.removeprefix(codecs.BOM_UTF8).decode(errors="surrogateescape")
    try:
        rows = list(csv.reader([f"{line}\n" for line in text.split("\n")], strict=True))
    except csv.Error:
        return None
    filled = [number for number, cells in enumerate(rows) if len(cells) > 1 or "".join(cells).strip()]
    if not filled:
        return 0
    header = rows[filled[0]]
    is_right = {"question", "answer"} <= set(header) or "messages" in header
    is_right &= all(header.count(name) < 2 for name in ("question", "cot", "steps", "answer", "messages"))
    return filled[-1] - filled[0] if is_right else None
