"""Joins the ranks of a run."""

import atexit
import logging
import os
import warnings

import deepspeed
import torch.distributed as torch_dist

from pipeline.errors import UserError, first_line


def init_distributed() -> None:
    """Join the launcher's process group, or make one of a single process; quiets DeepSpeed's log to warnings.

    Raises:
        UserError: If this rank has no GPU to itself, or the ranks cannot meet.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed calls collectives by their old names, which PyTorch remarks on at every call.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    if torch_dist.is_initialized():
        return
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, value)
    if os.environ["WORLD_SIZE"] == "1":
        os.environ.setdefault("MASTER_PORT", "0")
    # Gloo serves CPU ranks well enough. DeepSpeed would else probe every compiler here, and compile a shared-memory
    # kernel for over a minute at first use.
    deepspeed.ops.__compatible_ops__ = {}
    _take_device(int(os.environ["LOCAL_RANK"]))
    try:
        deepspeed.init_distributed(dist_backend=None, verbose=False)
    except torch_dist.DistNetworkError as error:
        raise UserError(
            f"MASTER_ADDR, MASTER_PORT ({os.environ['MASTER_ADDR']}, {os.environ['MASTER_PORT']}): the ranks cannot "
            f"meet there ({first_line(error)}); another run may have the port, so give the "
            "launcher another one (--master_port)."
        ) from error
    if os.environ["WORLD_SIZE"] == "1":  # of several, none may be kept at its end by one that has gone
        atexit.register(_leave)  # or NCCL remarks on it


def _take_device(local_rank: int) -> None:
    """Make a device this rank's own: collectives of objects put their tensors on the current one."""
    accelerator = deepspeed.get_accelerator()
    if accelerator.device_name() != "cpu" and local_rank >= accelerator.device_count():
        raise UserError(
            f"LOCAL_RANK ({local_rank}): there are {accelerator.device_count()} GPUs to see, and each rank needs its "
            "own; start fewer ranks, or check CUDA_VISIBLE_DEVICES."
        )
    accelerator.set_device(local_rank)


def _leave() -> None:
    if torch_dist.is_initialized():
        torch_dist.destroy_process_group()
