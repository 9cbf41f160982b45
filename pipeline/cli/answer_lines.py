"""Answers as lines for a terminal. What was typed or written by a model is shown, never obeyed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Column, Table
from rich.text import Text

from pipeline.cli.screen import compact_table

if TYPE_CHECKING:
    from pipeline.answering import Answer


def answer_lines(answer: "Answer") -> Text:
    """Return the chain of thought, the answer and what they cost, a line each."""
    lines = []
    if answer.asked != answer.question:
        lines.append(Text(f"  asked   {visible(answer.asked)}", style="dim"))
    if answer.cot:
        lines.append(Text(f"  CoT     {visible(answer.cot)}", style="dim"))
    lines.append(Text.assemble("  answer  ", _shown(answer)))
    cost = f"{_tokens(answer)}, {answer.milliseconds:.1f} ms"
    lines.append(Text("  ") + Text(", ").join([*_verdict(answer), Text(cost)]))
    return Text("\n").join(lines)


def side_by_side(names: Sequence[str], answers: Sequence["Answer"]) -> Table:
    """Return one column a model; the last one's speed is compared to the first one's."""
    table = compact_table("", *(Column(Text(name), overflow="fold", ratio=1) for name in names))
    if answers[0].asked != answers[0].question:
        table.add_row("asked", *(Text(visible(answer.asked), style="dim") for answer in answers))
    table.add_row("CoT", *(Text(visible(answer.cot) or "none", style="dim") for answer in answers))
    table.add_row("answer", *map(_shown, answers))
    if answers[0].correct is not None:
        table.add_row("", *(verdict for answer in answers for verdict in _verdict(answer)))
    table.add_row("tokens", *map(_tokens, answers))
    first, *others = answers
    ratios = [f" ({first.milliseconds / answer.milliseconds:.2f}x as fast)" for answer in others]
    times = (f"{answer.milliseconds:.1f} ms{ratio}" for answer, ratio in zip(answers, ["", *ratios], strict=True))
    table.add_row("time", *times)
    return table


def visible(text: str) -> str:
    """Write out what a terminal would obey instead of showing it, such as escape sequences and reversed directions."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def _shown(answer: "Answer") -> Text:
    return Text(visible(answer.shown) or "(nothing)", style="bold")


def _verdict(answer: "Answer") -> list[Text]:
    """Return one text, or none where it is not known whether the answer is right."""
    return [Text(answer.verdict, "green" if answer.correct else "red")] if answer.verdict else []


def _tokens(answer: "Answer") -> str:
    of_cot = f", {answer.num_cot_tokens} of them CoT" if answer.num_cot_tokens else ""
    return f"{answer.num_tokens} token{'' if answer.num_tokens == 1 else 's'}{of_cot}"
