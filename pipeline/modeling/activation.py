"""GPT-2's activation as one kernel."""

import torch
from transformers.activations import NewGELUActivation


def fuse_gelu(model: torch.nn.Module) -> None:
    """Replace GPT-2's GELU, which is written out as eight operations, with PyTorch's own of the same function.

    0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))): the same up to rounding, and one pass over memory where the other
    makes eight and keeps most of them for the backward pass. The model's configuration stays as it is.
    """
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, torch.nn.GELU(approximate="tanh"))
