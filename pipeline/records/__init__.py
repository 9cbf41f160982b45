"""Rows of data (question, chain of thought, answer): what they are, how they are read and written."""

from pipeline.records.partition import as_compared, draw_held_out
from pipeline.records.readers import BadRow, OnBadRow, SourceFormat, read_records
from pipeline.records.record import CoTRecord, split_steps
from pipeline.records.writers import (
    LINE_WRITERS,
    check_output_path,
    to_json_line,
    to_text_line,
    write_lines,
    write_records,
    write_together,
)

__all__ = [
    "LINE_WRITERS",
    "BadRow",
    "CoTRecord",
    "OnBadRow",
    "SourceFormat",
    "as_compared",
    "check_output_path",
    "draw_held_out",
    "read_records",
    "split_steps",
    "to_json_line",
    "to_text_line",
    "write_lines",
    "write_records",
    "write_together",
]
