"""Options of the `tacit data` commands: dataclasses that commands share, or that one has for itself."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from pipeline.cli.source_options import add_column_options, columns_of
from pipeline.config import ColumnsConfig
from pipeline.records import OnBadRow, SourceFormat


@dataclass(frozen=True)
class Splits:
    """Rows to generate."""

    output_dir: str
    """Folder of train, validation and test; made if missing."""
    exclude: list[str]
    """Files whose questions no split may hold, such as a published test set."""
    overwrite: bool
    """Replace existing files."""
    num_train: int = 100_000
    """Training rows. The paper's multiplication sets have 808000."""
    num_validation: int = 1_000
    """Validation rows."""
    num_test: int = 1_000
    """Test rows."""
    seed: int = 0
    """Same seed and options, same rows."""
    file_format: Literal["text", "jsonl"] = "text"
    """What to write: text writes `question||cot #### answer` to .txt, jsonl keeps the steps apart."""


@dataclass(frozen=True)
class Source:
    """Rows to read."""

    input: str
    """A file, or a Hub name: owner/name or owner/name:config."""
    split: str | None = None
    """Split to read of a data set on the Hub; train if not given."""
    on_bad_row: OnBadRow = "stop"
    """Stop at the first broken row, or skip it and list it."""


@dataclass(frozen=True)
class Format:
    """How the rows to read are written."""

    source_format: SourceFormat = "auto"
    """Format of the input; auto decides by extension and beginning."""
    columns: ColumnsConfig = ColumnsConfig()
    """What the fields of a row are called in the input."""


@dataclass(frozen=True)
class Output:
    """File to write."""

    output: str
    """File to write; .txt for text, .jsonl for JSON lines."""
    overwrite: bool
    """Replace existing files."""


@dataclass(frozen=True)
class HeldOut:
    """Splits of existing rows."""

    output_dir: str
    """Folder of train, validation and test; made if missing."""
    num_validation: int
    """Different questions held out for validation. All rows of a question go to one split."""
    overwrite: bool
    """Replace existing files."""
    num_test: int = 0
    """Different questions held out for the test."""
    seed: int = 0
    """Same seed and input, same splits."""
    file_format: Literal["text", "jsonl"] | None = None
    """What to write; by default text where the input is a .txt file, and jsonl for all others."""


@dataclass(frozen=True)
class MultiplicationSize:
    """Size of the numbers to multiply."""

    digits: str
    """Digits of the two numbers: 4x4, or 2x2-4x4 for 2 to 4 digits each, every size as often as any other."""
    sums: Literal["between", "last", "none"] = "between"
    """Where the sums so far stand in the chain of thought: between the products, as published; behind the last product,
    from where they can be removed first (--removal.right_first); or nowhere."""
    zero_share: float = 0.0
    """Share of the training rows drawn among numbers with zeros, every count of them as often as any other. These are
    easier, and what is learned there helps with the rest. They are the last rows of the file."""


@dataclass(frozen=True)
class AdditionSize:
    """Size of the sums."""

    digits: str
    """Digits of each number: 5, or 3-8, every size as often as any other."""
    num_operands: int = 4
    """Numbers to add, 3 to 999."""


@dataclass(frozen=True)
class Length:
    """Size of the questions."""

    length: str
    """Symbols in a question: 16, or 8-16, every length as often as any other."""


@dataclass(frozen=True)
class Machine:
    """Which automaton."""

    machine: Literal["modular_sum", "s3", "table"]
    """Automaton: digit sum modulo --modulus, word problem of the permutation group S3, or --transitions."""
    modulus: int | None = None
    """For modular_sum: what the sum of the digits 0 to 9 is taken modulo."""
    transitions: list[list[int]] | None = None
    """For table: next state for each state (row) and symbol (column), such as '[[0,1],[1,0]]'. State 0 is the first."""


# jsonargparse would want `--exclude [A,B]` and `--overwrite true`, so these two are added by hand.
BY_HAND: dict[str, dict[str, Any]] = {
    "exclude": {
        "nargs": "+",
        "type": str,
        "default": [],
        "metavar": "FILE",
        "help": "Files whose questions no split may hold, such as a published test set.",
    },
    "overwrite": {"action": "store_true", "help": "Replace existing files."},
}


def add_options(parser: ArgumentParser, options_class: type) -> None:
    """Add a dataclass's fields to a parser as ``--field``."""
    names = {field.name for field in fields(options_class)}
    by_hand = names & BY_HAND.keys()
    parser.add_class_arguments(options_class, None, skip={*by_hand, "columns"})
    for name in sorted(by_hand):
        parser.add_argument(f"--{name}", **BY_HAND[name])
    if "columns" in names:
        add_column_options(parser)


def read_options(options: Namespace, options_class: type) -> Any:
    """Return the dataclass whose fields the parser knows.

    Raises:
        UserError: If columns are not named rightly.
    """
    values = {field.name: options[field.name] for field in fields(options_class)}
    if "columns" in values:
        values["columns"] = columns_of(options)
    return options_class(**values)
