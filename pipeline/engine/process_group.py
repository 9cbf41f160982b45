"""Joins the ranks of a run."""

import atexit
import logging
import os
import warnings

import deepspeed
import torch.distributed as torch_dist


def init_distributed() -> None:
    """Join the launcher's process group, or make one of a single process; quiets DeepSpeed's log to warnings."""
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
    # Collectives of objects put their tensors on the current device, which must be this rank's own.
    deepspeed.get_accelerator().set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed(dist_backend=None, verbose=False)
    if os.environ["WORLD_SIZE"] == "1":  # of several, none may be kept at its end by one that has gone
        atexit.register(_leave)  # or NCCL remarks on it


def _leave() -> None:
    if torch_dist.is_initialized():
        torch_dist.destroy_process_group()
