"""A preview as text and tables. Marks say what colours say, for terminals and files that have none."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TypeVar

from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from pipeline.cli.answer_lines import visible
from pipeline.cli.screen import compact_table, figures, open_screen
from pipeline.config import Config
from pipeline.preview.preview import Lengths, MicroBatchShape, Preview, StagePreview
from pipeline.preview.rows import ShownRow, Token

SEPARATORS = ("first_separator", "second_separator", "end")
STYLES = {"question": "cyan", "cot": "magenta", "answer": "green", **dict.fromkeys(SEPARATORS, "yellow")}
REMOVED, LOSS = "red strike", "underline"
BLANK = "␣"
Word = TypeVar("Word", str, Text)
MOST_BATCHES = 6  # of a rank, in the table


def print_preview(config: Config, preview: Preview, with_positions: bool) -> None:
    """Print a preview for people.

    Args:
        config: The recipe.
        preview: What to print.
        with_positions: Add a table of each row's tokens.
    """
    console = open_screen(120)
    console.print(
        f"{preview.num_rows:,} training rows, {preview.steps_per_epoch:,} optimizer steps an epoch; "
        f"{_course(config, preview.num_removed)}."
    )
    numbers = ", ".join(str(row.row_number) for row in preview.stages[0].rows)
    console.print(f"Rows shown, counted from 0: {numbers}; the first that seed {config.run.seed} draws.")
    console.print(legend())
    for stage in preview.stages:
        console.print()
        console.print(_heading(config, stage), style="bold")
        for row in stage.rows:
            console.print(_say_row(row))
            console.print(Padding(row_text(row.tokens), (0, 0, 0, 2), expand=False))
            if with_positions:
                console.print(Padding(positions_table(row.tokens), (0, 0, 0, 2), expand=False))
    console.print()
    some = f" of {preview.num_rows:,}, drawn by the seed" if preview.num_counted < preview.num_rows else ""
    console.print(f"Tokens, mean / longest, and shares, of {preview.num_counted:,} rows{some}:")
    console.print(counts_table(preview))
    computed = ", not computed where the architecture allows that" if config.model.padding_free else ""
    console.print(
        f"Global batch of each stage's first step, as rows x padded length, at most "
        f"{config.engine.micro_batch_tokens:,} tokens (padding is laid out{computed}):"
    )
    console.print(batches_table(preview))


def _course(config: Config, numbers: Sequence[int]) -> str:
    first = f"{len(numbers)} stages, from {numbers[0]} to " if len(numbers) > 1 else "one stage, "
    return f"{first}{_removed(config, numbers[-1])} ({config.schedule.kind})"


def _removed(config: Config, number: int) -> str:
    return f"{number} CoT {config.removal.unit}{'' if number == 1 else 's'} removed"


def legend() -> Text:
    """Return what marks and colours mean."""
    return Text.assemble(
        ("question ", STYLES["question"]),
        ("[separator or end] ", STYLES["end"]),
        ("~~removed~~", REMOVED),
        (" CoT ", STYLES["cot"]),
        ("answer ", STYLES["answer"]),
        "{",
        ("carries loss", LOSS),
        f"}} {BLANK} blank inside a token",
    )


def row_text(tokens: Sequence[Token]) -> Text:
    """Return a row in one line: tokens with blanks between, marks around what belongs together."""
    words = []
    for has_loss, stretch in groupby(tokens, key=lambda token: token.has_loss):
        parts = [word for _, part in groupby(stretch, key=_look) for word in _marked_part(list(part))]
        words += _between(Text("{"), parts, Text("}")) if has_loss else parts
    return Text(" ").join(words)


def _look(token: Token) -> tuple[str, bool]:
    return token.part, token.is_removed


def _marked_part(tokens: Sequence[Token]) -> list[Text]:
    """Return the tokens of one look as words, marked at both ends."""
    words = [in_one_word(token.text) for token in tokens]
    if tokens[0].part in SEPARATORS:
        words = _between("[", words, "]")
    if tokens[0].is_removed:
        words = _between("~~", words, "~~")
    return [Text(word, _style(tokens[0])) for word in words]


def _between(before: Word, words: list[Word], after: Word) -> list[Word]:
    """Return words with marks that touch the first and the last."""
    marked = list(words)
    marked[0] = before + marked[0]
    marked[-1] = marked[-1] + after
    return marked


def _style(token: Token) -> str:
    if token.is_removed:
        return REMOVED
    return f"{STYLES[token.part]} {LOSS}" if token.has_loss else STYLES[token.part]


def in_one_word(text: str) -> str:
    """Return a token's text in one word: blanks as a sign, what cannot be printed as its escape."""
    return visible(text).replace(" ", BLANK)


def positions_table(tokens: Sequence[Token]) -> Table:
    """Return one line a token."""
    words = (Column(heading, no_wrap=True) for heading in ("part", "token"))
    table = compact_table(*words, *figures("id", "position"), Column("loss", no_wrap=True))
    for token in tokens:
        table.add_row(
            token.part.replace("_", " "),
            Text(in_one_word(token.text), _style(token)),
            str(token.id),
            "removed" if token.position is None else str(token.position),
            "loss" if token.has_loss else "",
        )
    return table


def _heading(config: Config, preview: StagePreview) -> str:
    stage = preview.stage
    removed = f"{_removed(config, stage.num_removed)}{' (all)' if stage.removes_all else ''}"
    begins = "at the earliest from" if config.schedule.kind == "adaptive" and stage.first_step else "from"
    return f"{removed}, {begins} optimizer step {stage.first_step:,} on (epoch {preview.epoch})"


def _say_row(row: ShownRow) -> str:
    offset = "no offset drawn" if row.offset is None else f"offset {row.offset}"
    shift = f", positions shifted by {row.shift}" if row.shift else ""
    return f"row {row.row_number}: {offset}, {row.num_removed} of {row.num_cot} CoT tokens gone{shift}"


def counts_table(preview: Preview) -> Table:
    """Return the lengths at each stage."""
    headings = ("removed", "question", "CoT left", "answer", "whole row", "with CoT", "offset < 0", "> 0")
    table = compact_table(*figures(*headings))
    for stage in preview.stages:
        counts = stage.counts
        table.add_row(
            _number(stage),
            *map(_lengths, (counts.question, counts.cot, counts.answer, counts.row)),
            f"{100 * counts.share_with_cot:.1f} %",
            f"{100 * counts.share_earlier:.1f} %",
            f"{100 * counts.share_smoothed:.1f} %",
        )
    return table


def _number(stage: StagePreview) -> str:
    return f"{stage.stage.num_removed}{' (all)' if stage.stage.removes_all else ''}"


def _lengths(lengths: Lengths) -> str:
    return f"{lengths.mean:.1f} / {lengths.longest}"


def batches_table(preview: Preview) -> Table:
    """Return how each stage's first global batch is laid out, one line a rank."""
    table = compact_table(*figures("removed", "rank", "rows", "padding"), Column("micro-batches", overflow="fold"))
    for stage in preview.stages:
        for rank, batches in enumerate(stage.ranks):
            table.add_row(
                _number(stage) if rank == 0 else "",
                str(rank),
                str(sum(batch.num_rows for batch in batches)),
                f"{100 * share_of_padding(batches):.1f} %",
                ", ".join(_shapes(batches)),
            )
    return table


def share_of_padding(batches: Sequence[MicroBatchShape]) -> float:
    """Return the part of a rank's tokens that is padding."""
    size = sum(max(batch.num_rows, 1) * batch.padded_length for batch in batches)
    return 1 - sum(batch.num_tokens for batch in batches) / size


def _shapes(batches: Sequence[MicroBatchShape]) -> Iterator[str]:
    for batch in batches[:MOST_BATCHES]:
        yield f"{batch.num_rows} x {batch.padded_length}" if batch.num_rows else "empty"
    if len(batches) > MOST_BATCHES:
        yield f"and {len(batches) - MOST_BATCHES} more"
