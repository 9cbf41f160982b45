"""How rows are shared out over steps, ranks and micro-batches, by their number and lengths alone. Pure."""

from collections.abc import Sequence

import numpy as np


def steps_per_epoch(num_rows: int, global_batch_size: int) -> int:
    """Return the optimizer steps of one pass over the rows; the last of them may be smaller."""
    return -(-num_rows // global_batch_size)


def ranks_at_work(num_rows: int, num_ranks: int) -> float:
    """Return how many ranks would do a step's work as fast if each had an equal share of it.

    A step lasts as long as the ranks that have most rows: 32 rows take 24 ranks as long as 16, and 64 as long as 32.

    Args:
        num_rows: Of the global batch, all of one length.
        num_ranks: World size.
    """
    most_rows = -(-num_rows // num_ranks)
    return num_rows / most_rows


def plan_micro_batches(lengths: Sequence[int], num_ranks: int, micro_batch_tokens: int) -> list[list[list[int]]]:
    """Share rows out over ranks and micro-batches.

    Rows are sorted by length and cut into ``num_ranks * k`` runs of about equal size, for the smallest k at which each
    run keeps the budget. The runs are dealt out in order, so ranks work on rows of like length at the same time.

    Args:
        lengths: Tokens of each row of the global batch.
        num_ranks: World size.
        micro_batch_tokens: Most padded tokens (rows x longest row) in one micro-batch. A single row may exceed it.

    Returns:
        For each rank its micro-batches, as lists of positions in ``lengths``; every rank has the same number, some may
        be empty, and each position stands exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    per_rank = 1
    while True:
        runs = _cut_evenly([lengths[i] for i in order], num_ranks * per_rank, micro_batch_tokens)
        if runs is not None:
            break
        per_rank += 1
    batches = [order[begin:end] for begin, end in runs]
    return [[batches[k * num_ranks + rank] for k in range(per_rank)] for rank in range(num_ranks)]


def _cut_evenly(lengths: list[int], num_runs: int, budget: int) -> list[tuple[int, int]] | None:
    """Cut descending lengths into runs, each of its fair share of tokens; None if one breaks the budget."""
    cumulative = np.concatenate([[0], np.cumsum(lengths)])
    targets = cumulative[-1] * np.arange(1, num_runs) / num_runs
    cuts = [0, *np.searchsorted(cumulative, targets).tolist(), len(lengths)]
    runs = list(zip(cuts[:-1], cuts[1:], strict=True))
    fits = all(end - begin <= 1 or lengths[begin] * (end - begin) <= budget for begin, end in runs)
    return runs if fits else None
