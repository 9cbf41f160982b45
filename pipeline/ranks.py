"""Who this process is among the ranks, and what they tell each other. One process alone needs no process group."""

import os
from collections.abc import Callable
from typing import Any

import torch.distributed as torch_dist

from pipeline.errors import UserError


def rank() -> int:
    """Return this process's global rank; 0 before ``init_distributed``."""
    return torch_dist.get_rank() if torch_dist.is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of ranks; 1 before ``init_distributed``."""
    return torch_dist.get_world_size() if torch_dist.is_initialized() else 1


def gather_lists(items: list) -> list:
    """Concatenate every rank's list, in rank order, on every rank."""
    if world_size() == 1:
        return items
    gathered: list[list] = [[] for _ in range(world_size())]
    torch_dist.all_gather_object(gathered, items)
    return [item for part in gathered for item in part]


def from_rank_zero(value: Any) -> Any:
    """Return rank 0's value on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    torch_dist.broadcast_object_list(box, src=0)
    return box[0]


def barrier() -> None:
    """Wait for every rank."""
    torch_dist.barrier()


def on_rank_zero(work: Callable[[], None]) -> None:
    """Let rank 0 do something while the others wait.

    Raises:
        UserError: On every rank, if rank 0 raised one: it must not leave the others waiting.
    """
    fault = None
    if rank() == 0:
        try:
            work()
        except UserError as error:
            fault = str(error)
    fault = from_rank_zero(fault)
    if fault is not None:
        raise UserError(fault)
