"""`tacit data`: generates, converts and divides rows of data."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from jsonargparse import ArgumentParser, set_parsing_settings
from rich.console import Console
from rich.progress import track

from pipeline.cli.arguments import check_command, parse_options
from pipeline.cli.data_options import (
    AdditionSize,
    Format,
    HeldOut,
    Length,
    Machine,
    MultiplicationSize,
    Output,
    Source,
    Splits,
    add_options,
    read_options,
)
from pipeline.cli.main import USAGE
from pipeline.cli.source_options import check_source_options
from pipeline.cli.split_files import is_among, plan_splits, splits_in
from pipeline.errors import UserError
from pipeline.records import (
    LINE_WRITERS,
    BadRow,
    CoTRecord,
    as_compared,
    check_output_path,
    draw_held_out,
    read_records,
    to_json_line,
    write_records,
    write_together,
)
from pipeline.tasks import (
    Addition,
    Automaton,
    SparseMultiplication,
    Task,
    generate_splits,
    modular_sum,
    parity,
    symmetric_group_3,
)
from pipeline.tasks.digits import parse_range
from pipeline.tasks.multiplication import parse_sizes

Row = TypeVar("Row")


def multiplication(size: MultiplicationSize, splits: Splits) -> None:
    """Generate products with the school method as chain of thought, in the paper's format."""
    sizes = parse_sizes(size.digits, "--digits", size.sums)
    if not 0 <= size.zero_share <= 1:
        raise UserError(f"--zero_share ({size.zero_share}) must be a share from 0 to 1; correct it.")
    with_zeros = [
        SparseMultiplication(products, num_zeros)
        for products in (sizes if size.zero_share else ())
        for num_zeros in range(1, products.num_digits_a + products.num_digits_b - 1)
    ]
    _generate(sizes, splits, with_zeros, size.zero_share)


def addition(size: AdditionSize, splits: Splits) -> None:
    """Generate sums of several numbers with the sums so far as chain of thought."""
    _generate([Addition(size.num_operands, digits) for digits in parse_range(size.digits, "--digits")], splits)


def parity_of_bits(length: Length, splits: Splits) -> None:
    """Generate strings of bits with the parity after each bit as chain of thought."""
    _generate([Automaton(parity(), count) for count in parse_range(length.length, "--length")], splits)


def automaton(machine: Machine, length: Length, splits: Splits) -> None:
    """Generate runs of a finite automaton with the state after each symbol as chain of thought."""
    table = _transitions(machine)
    _generate([Automaton(table, count) for count in parse_range(length.length, "--length")], splits)


def gsm8k(source: Source, output: Output) -> None:
    """Convert GSM8K's own rows: the equations of each solution become the chain of thought."""
    _convert(source, Format("gsm8k"), output)


def convert(source: Source, source_format: Format, output: Output) -> None:
    """Convert rows from one format to another."""
    _convert(source, source_format, output)


def split(source: Source, source_format: Format, held_out: HeldOut) -> None:
    """Divide rows into train, validation and test; rows with equal questions stay together."""
    for name, count in (("num_validation", held_out.num_validation), ("num_test", held_out.num_test)):
        if count < 0:
            raise UserError(f"--{name} ({count}) must not be negative; raise it to 0 or more.")
    counts = {"validation": held_out.num_validation, "test": held_out.num_test}
    names = ["train", *(name for name, count in counts.items() if count)]
    file_format = held_out.file_format or ("text" if source.input.endswith(".txt") else "jsonl")
    for path in splits_in(held_out.output_dir):
        if is_among(path, [source.input]):
            raise UserError(f"{path}: is the input, which is read again for each split; name another --output_dir.")
    paths = plan_splits(held_out.output_dir, names, file_format, held_out.overwrite)
    bad_rows: list[BadRow] = []
    questions = (record.question for record in _read(source, source_format, bad_rows))
    split_of = draw_held_out(questions, counts, held_out.seed)

    def lines(name: str, path: Path) -> Iterator[str]:
        # One pass a split keeps the memory constant; the first pass has listed the broken rows already.
        rows = _read(source, source_format, [])
        own = (row for row in rows if split_of.get(as_compared(row.question), "train") == name)
        return map(LINE_WRITERS[path.suffix], own)

    _print_summary(write_together({path: lines(name, path) for name, path in paths.items()}), bad_rows)


COMMANDS: dict[str, Callable[..., None]] = {
    "multiplication": multiplication,
    "addition": addition,
    "parity": parity_of_bits,
    "automaton": automaton,
    "gsm8k": gsm8k,
    "convert": convert,
    "split": split,
}


def main(argv: Sequence[str]) -> int:
    """Run a `tacit data` command.

    Args:
        argv: Arguments after ``data``.

    Returns:
        0, or 2 where no command is named.

    Raises:
        UserError: For a wrong command, option or row of data.
    """
    if not argv or argv[0] in ("-h", "--help"):
        _print_commands()
        return 0 if argv else USAGE
    name, *rest = argv
    check_command(name, COMMANDS, "tacit data")
    run = COMMANDS[name]
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=f"tacit data {name}", description=run.__doc__, allow_abbrev=False)
    options_classes = [parameter.annotation for parameter in inspect.signature(run).parameters.values()]
    for options_class in options_classes:
        add_options(parser, options_class)
    options = parse_options(parser, rest)
    run(*(read_options(options, options_class) for options_class in options_classes))
    return 0


def _print_commands() -> None:
    print("usage: tacit data COMMAND [options]\n\nCommands (`tacit data COMMAND --help` lists the options):")
    for name, run in COMMANDS.items():
        print(f"  {name:<16}{run.__doc__}")


def _generate(tasks: Sequence[Task], splits: Splits, easier: Sequence[Task] = (), easier_share: float = 0.0) -> None:
    counts = {"train": splits.num_train, "validation": splits.num_validation, "test": splits.num_test}
    names = [name for name, count in counts.items() if count]
    paths = plan_splits(splits.output_dir, names, splits.file_format, splits.overwrite, disjoint=splits.exclude)
    excluded = frozenset(as_compared(record.question) for file in splits.exclude for record in read_records(file))
    drawn = generate_splits(
        tasks,
        **{f"num_{name}": n for name, n in counts.items()},
        seed=splits.seed,
        exclude=excluded,
        easier=easier,
        easier_share=easier_share,
    )
    lines_of = {}
    for name, path in paths.items():
        rows = drawn[name]
        lines = rows.text_lines() if splits.file_format == "text" else map(to_json_line, rows)
        lines_of[path] = _with_progress(lines, len(rows))
    _print_summary(write_together(lines_of), [])


def _transitions(machine: Machine) -> tuple[tuple[int, ...], ...]:
    for option, value, owner in (
        ("--modulus", machine.modulus, "modular_sum"),
        ("--transitions", machine.transitions, "table"),
    ):
        if value is None and machine.machine == owner:
            raise UserError(f"--machine {owner} needs {option}; add it.")
        if value is not None and machine.machine != owner:
            raise UserError(f"{option} ({value}) belongs to --machine {owner} (it is {machine.machine}); drop one.")
    if machine.transitions is not None:
        return tuple(map(tuple, machine.transitions))
    if machine.modulus is None:
        return symmetric_group_3()
    if not 2 <= machine.modulus <= 999:
        raise UserError(
            f"--modulus ({machine.modulus}) must be at least 2, or every sum is 0, and at most 999; correct it."
        )
    return modular_sum(machine.modulus, num_symbols=10)


def _convert(source: Source, source_format: Format, output: Output) -> None:
    path = Path(output.output)
    check_output_path(path, output.overwrite)
    bad_rows: list[BadRow] = []
    without_cot: list[None] = []
    records = _noting_empty_cot(_read(source, source_format, bad_rows), without_cot)
    num_rows = write_records(path, _with_progress(records, None))
    _print_summary({path: num_rows}, bad_rows, num_without_cot=len(without_cot))


def _read(source: Source, source_format: Format, bad_rows: list[BadRow]) -> Iterator[CoTRecord]:
    check_source_options(source.input, source_format.source_format, source.split, source_format.columns)
    return read_records(
        source.input,
        source_format=source_format.source_format,
        split=source.split or "train",
        columns=asdict(source_format.columns),
        on_bad_row=source.on_bad_row,
        bad_rows=bad_rows,
    )


def _noting_empty_cot(records: Iterable[CoTRecord], without_cot: list[None]) -> Iterator[CoTRecord]:
    for record in records:
        if not record.steps:
            without_cot.append(None)
        yield record


def _with_progress(rows: Iterable[Row], total: int | None) -> Iterator[Row]:
    console = Console(stderr=True)
    yield from track(rows, "rows", total=total, console=console, transient=True, disable=not console.is_terminal)


def _print_summary(num_rows: dict[Path, int], bad_rows: Sequence[BadRow], num_without_cot: int = 0) -> None:
    line = "Wrote " + ", ".join(f"{count:,} rows to {path}" for path, count in num_rows.items())
    if num_without_cot:
        line += f" ({num_without_cot:,} of them without a chain of thought)"
    if bad_rows:
        line += f"; skipped {len(bad_rows):,} broken rows"
    print(f"{line}.")
    for bad_row in bad_rows:
        print(f"  {bad_row}")
