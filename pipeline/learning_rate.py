"""The learning rate as a pure function of the step."""

import math

from pipeline.config import OptimConfig


def learning_rate(
    config: OptimConfig,
    step: int,
    num_steps: int | None,
    reset_step: int | None,
    last_stage: range | None = None,
) -> float:
    """Return the learning rate of an optimizer step.

    Args:
        config: Peak, shape and warm-ups.
        step: The optimizer step, from 0.
        num_steps: Steps of the whole run; None where it is not known, which only the constant shape allows.
        reset_step: First step after the latest optimizer reset, or None before any.
        last_stage: Steps of the last stage, once they are known; ``final_decay`` is a share of them.
    """
    factor = 1.0
    if step < config.warmup_steps:
        factor = (step + 1) / config.warmup_steps
    elif config.lr_schedule != "constant":
        assert num_steps is not None
        progress = (step - config.warmup_steps) / max(num_steps - config.warmup_steps, 1)
        factor = 1 - progress if config.lr_schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    if reset_step is not None and step - reset_step < config.reset_warmup_steps:
        factor *= (step - reset_step + 1) / config.reset_warmup_steps
    if last_stage and config.final_decay:
        factor *= min(1.0, (last_stage.stop - step) / (config.final_decay * len(last_stage)))
    return config.lr * factor
