"""Rows whose answer could not be read back from what a perfect model writes are refused."""

import pytest

from pipeline.config import FormatConfig
from pipeline.errors import UserError
from pipeline.records import CoTRecord
from pipeline.records.columns import RecordColumns
from pipeline.row_text import resolve_format
from pipeline.token_table import RowTokenizer
from tests.gpt2_style import END, build_gpt2_style

EQUALS = FormatConfig(question="{question}", second_separator=" =", answer=" {answer}")
LINES = FormatConfig(question="{question}", first_separator=":", cot=" {cot}", second_separator=" ####", end="\n")
GOOD = CoTRecord("1 + 2", ("1 2",), "3")


def tokenize(row_format: FormatConfig, *records: CoTRecord) -> int:
    tokenizer = build_gpt2_style()
    rows = RowTokenizer(resolve_format(row_format, tokenizer), tokenizer)
    return len(rows.table(RecordColumns.of(records)))


@pytest.mark.parametrize(
    ("row_format", "record", "fault"),
    [
        (EQUALS, CoTRecord("the bad one", ("1",), "x = 3"), r"its answer holds what format.second_separator writes"),
        (FormatConfig(), CoTRecord("the bad one", (f"a {END} b",), "5"), r"its chain of thought holds what format.end"),
        (FormatConfig(), CoTRecord("the bad one", ("a",), f"5 {END} 6"), r"its answer holds what format.end writes"),
        (LINES, CoTRecord("the bad one", ("a", "\nb"), "5"), r"its chain of thought holds what format.end writes"),
    ],
)
def test_a_row_that_would_be_cut_off_is_refused(row_format: FormatConfig, record: CoTRecord, fault: str) -> None:
    with pytest.raises(UserError, match=rf"the bad one.*{fault}"):
        tokenize(row_format, GOOD, GOOD, record, GOOD)


@pytest.mark.parametrize(
    ("row_format", "record"),
    [
        (EQUALS, CoTRecord("q", ("x = 3", " = 4"), "5")),  # the answer is behind the last
        (EQUALS, CoTRecord("q", ("1",), "x=3")),  # another token
        (FormatConfig(second_separator=""), CoTRecord("q", ("1",), "x = 3")),
    ],
)
def test_separators_where_they_do_no_harm_are_let_through(row_format: FormatConfig, record: CoTRecord) -> None:
    assert tokenize(row_format, GOOD, record) == 2
