"""AdamW: which one, and how it starts afresh."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch

from pipeline.config import OptimConfig

# What AdamW remembers of past gradients: PyTorch's names, then those of bitsandbytes, whose 8-bit moments are scaled by
# ``absmax``. Its quantisation maps are constants and stay.
MEMORY = ("exp_avg", "exp_avg_sq", "state1", "state2", "absmax1", "absmax2")


def make_optimizer(parameters: Iterable[torch.nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    """Return the recipe's AdamW over the given weights; its learning rate is set before each step."""
    settings: dict[str, Any] = {
        "lr": 0.0,
        "betas": config.betas,
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "paged_adamw_8bit":
        from bitsandbytes.optim import PagedAdamW8bit  # takes seconds to import

        warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")  # nothing to page out
        return PagedAdamW8bit(parameters, **settings)
    return torch.optim.AdamW(parameters, fused=True, **settings)


def squared_moments(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """Return the squared norms of AdamW's first and second moments on this rank, (2,) float64; 8-bit ones give NaN."""
    squares = torch.zeros(2, dtype=torch.float64)
    for state in optimizer.state.values():
        if "exp_avg" not in state:
            return torch.full((2,), float("nan"), dtype=torch.float64)
        moments = (state["exp_avg"], state["exp_avg_sq"])
        squares += torch.stack([moment.float().norm().double().cpu() ** 2 for moment in moments])
    return squares


def reset_state(optimizer: torch.optim.Optimizer) -> None:
    """Zero AdamW's moments and step count in place; weights, fp32 masters and learning rate stay.

    In place, because DeepSpeed keeps references to these tensors. Before the first step there is nothing to zero.

    Source: arXiv:2405.14838, section 3.
    """
    for state in optimizer.state.values():
        for name in MEMORY:
            if name in state:
                state[name].zero_()
        if torch.is_tensor(state["step"]):
            state["step"].zero_()
        else:
            state["step"] = 0
    for group in optimizer.param_groups:
        if "step" in group:  # DeepSpeed's FusedAdam counts here
            group["step"] = 0
