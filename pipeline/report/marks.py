"""Where an answer differs from the right one. Pure: two texts in, pieces out."""

from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an answer."""

    text: str
    kind: Literal["right", "wrong", "missing"]
    """``missing``: the text stands in the right answer only."""


def mark(prediction: str, answer: str) -> list[Piece]:
    """Return a prediction in pieces, each right, wrong, or missing.

    Words are compared where the answer is several, such as digits with blanks between them, else characters. Texts of
    one length are compared place by place, as digits must be; others along their longest common parts.
    """
    blank = " " if " " in answer.strip() else ""
    given, wanted = (text.split() if blank else list(text) for text in (prediction, answer))
    if len(given) == len(wanted):
        pairs = zip(given, wanted, strict=True)
        pieces = [Piece(one, "right" if one == other else "wrong") for one, other in pairs]
    else:
        pieces = []
        for kind, i, j, k, m in SequenceMatcher(None, given, wanted, autojunk=False).get_opcodes():
            pieces += [Piece(text, "right" if kind == "equal" else "wrong") for text in given[i:j]]
            if kind in ("insert", "replace"):
                pieces += [Piece(text, "missing") for text in wanted[k + j - i : m]]
    return _joined(pieces, blank)


def _joined(pieces: list[Piece], blank: str) -> list[Piece]:
    """Put neighbours of one kind together."""
    joined: list[Piece] = []
    for piece in pieces:
        if joined and joined[-1].kind == piece.kind:
            joined[-1] = Piece(f"{joined[-1].text}{blank}{piece.text}", piece.kind)
        else:
            joined.append(piece)
    return joined
