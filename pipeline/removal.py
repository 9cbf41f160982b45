"""Taking CoT tokens away. Pure: numbers and token lists in, numbers and token lists out.

Source: arXiv:2405.14838, section 3.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Side = Literal["left", "right"]
Unit = Literal["token", "step"]


@dataclass(frozen=True, slots=True)
class CoTExample:
    """One row as token ids, its parts kept apart so that none has to be searched for later."""

    question_ids: tuple[int, ...]
    cot_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    """Answer and end token."""
    cot_step_lengths: tuple[int, ...] = ()
    """Tokens in each reasoning step; they sum to the length of ``cot_ids``."""


def smoothing_offsets(num_rows: int, smoothing_lambda: float, generator: np.random.Generator) -> np.ndarray:
    """Draw each row's smoothing offset, P(o) = (1 - e^-lambda) e^(-lambda o), as an integer array (num_rows,).

    The floor of an exponential variable has exactly this distribution. At lambda = inf every offset is 0.
    """
    if np.isinf(smoothing_lambda):
        return np.zeros(num_rows, dtype=np.int64)
    return np.floor(generator.exponential(1.0 / smoothing_lambda, size=num_rows)).astype(np.int64)


def earlier_share_at(num_removed: int, num_added: int, share: float, earlier_from: int) -> float:
    """Return the share of a stage's rows that lose fewer units than the stage says.

    Args:
        num_removed: Units that the stage removes.
        num_added: Of these, the ones that the stage before did not remove; without any there is nothing to lose less.
        share: As the recipe has it (``removal.earlier_share``).
        earlier_from: Removed units from which on stages have such rows.
    """
    return share if num_added and num_removed >= earlier_from else 0.0


def earlier_offsets(num_rows: int, share: float, num_added: int, generator: np.random.Generator) -> np.ndarray:
    """Draw which rows lose fewer units than their stage says, and how many fewer, as an integer array (num_rows,).

    A row is left alone, 0, with probability 1 - ``share``; else it gets one of -1 to -``num_added``, all as likely.

    Args:
        num_rows: Rows to draw for.
        share: As ``earlier_share_at`` returns it; 0 draws nothing.
        num_added: Units that the stage removes beyond the one before it, >= 0; with 0 every row is left alone.
        generator: Where the draws come from.

    Source: ours; the paper's rows lose what their stage says, or more.
    """
    if not share or not num_added:
        return np.zeros(num_rows, dtype=np.int64)
    draws = generator.random(num_rows)
    return np.where(draws < share, -1 - np.floor(draws / share * num_added), 0).astype(np.int64)


def remove_cot_tokens(
    example: CoTExample, num_removed: int, side: Side, unit: Unit = "token", right_first: int = 0
) -> CoTExample:
    """Drop tokens, or whole reasoning steps, from one end of the chain of thought, or from the right and then the left.

    Args:
        example: Unpadded token ids; ``cot_ids`` has length C >= 0.
        num_removed: Tokens or steps to drop, >= 0; clamped to what there is.
        side: "left" drops the earliest reasoning first.
        unit: What is counted.
        right_first: Of the dropped tokens, the first so many go from the right end whatever ``side`` is.

    Returns:
        A new example; with unit "token" its ``cot_ids`` has max(C - num_removed, 0) tokens.

    Raises:
        ValueError: If ``num_removed`` is negative.

    Source: arXiv:2405.14838, section 3.
    """
    if num_removed < 0:
        raise ValueError(f"num_removed ({num_removed}) must be at least 0.")
    if right_first:
        from_right = min(num_removed, right_first)
        return remove_cot_tokens(remove_cot_tokens(example, from_right, "right"), num_removed - from_right, side, unit)
    lengths = example.cot_step_lengths
    if unit == "step":
        gone = lengths[:num_removed] if side == "left" else lengths[max(len(lengths) - num_removed, 0) :]
        num_tokens = sum(gone)
    else:
        num_tokens = min(num_removed, len(example.cot_ids))
    kept = slice(num_tokens, None) if side == "left" else slice(0, len(example.cot_ids) - num_tokens)
    return replace(example, cot_ids=example.cot_ids[kept], cot_step_lengths=_shorten(lengths, num_tokens, side))


def _shorten(lengths: tuple[int, ...], num_tokens: int, side: Side) -> tuple[int, ...]:
    """Take ``num_tokens`` off the step lengths, from one end; steps that are used up go."""
    ordered = list(lengths if side == "left" else lengths[::-1])
    while num_tokens and ordered:
        taken = min(ordered[0], num_tokens)
        num_tokens -= taken
        ordered[0] -= taken
        if not ordered[0]:
            ordered.pop(0)
    return tuple(ordered if side == "left" else ordered[::-1])


def position_shift(num_removed: int, longest_cot: int, removes_all: bool, right_first: int = 0) -> int:
    """Return by how much kept positions shift from the first separator on: min(s + o, C_max).

    Only what goes from the left opens a gap: what has gone from the right is gone from C_max, too.

    Args:
        num_removed: Scheduled number of removed tokens plus the row's smoothing offset, s + o.
        longest_cot: Tokens in the longest training CoT, C_max.
        removes_all: Whether the stage removes everything.
        right_first: Of the removed tokens, the first so many go from the right.
    """
    longest = max(longest_cot - right_first, 0)
    return longest if removes_all else min(max(num_removed - right_first, 0), longest)
