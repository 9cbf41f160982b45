"""Who this process is among the ranks, and what they tell each other. One process alone needs no process group."""

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as torch_dist

from pipeline.errors import RunError, UserError


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
    if world_size() > 1:
        torch_dist.barrier()


def largest_of_all_ranks(value: int) -> int:
    """Return the largest of the ranks' values."""
    if world_size() == 1:
        return value
    box = torch.tensor(value, device="cuda" if torch_dist.get_backend() == "nccl" else "cpu")
    torch_dist.all_reduce(box, op=torch_dist.ReduceOp.MAX)
    return int(box)


def sum_over_ranks(values: torch.Tensor) -> list[float]:
    """Return the ranks' values, (num_values,), added up. Here a rank waits for the others, and for its device."""
    if world_size() > 1:
        torch_dist.all_reduce(values)
    return values.tolist()


def on_every_rank(work: Callable[[], None]) -> None:
    """Let every rank do its part, and wait until all have.

    Raises:
        RunError: On every rank, if any raised one: it must not leave the others waiting.
    """
    fault = None
    try:
        work()
    except RunError as error:
        fault = str(error) if world_size() == 1 else f"rank {rank()}: {error}"
    faults = [other for other in gather_lists([fault]) if other is not None]
    if faults:
        raise RunError(faults[0])


def on_rank_zero(work: Callable[[], None]) -> None:
    """Let rank 0 do something while the others wait.

    Raises:
        UserError, RunError: On every rank, if rank 0 raised one: it must not leave the others waiting.
    """
    fault: UserError | RunError | None = None
    if rank() == 0:
        try:
            work()
        except (UserError, RunError) as error:
            fault = error
    kind, text = from_rank_zero((type(fault), str(fault)))
    if fault is not None:
        raise fault
    if kind in (UserError, RunError):
        raise kind(text)
