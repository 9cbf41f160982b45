"""What a measurement depends on: two recipes with the same key need one."""

from dataclasses import replace

from pipeline.config import Config


def model_key(config: Config) -> str:
    """Return what a recipe's model depends on, apart from its architecture."""
    return repr((config.model, config.lora, config.engine.precision))


def shapes_key(config: Config) -> str:
    """Return what the tensors of a pass depend on, apart from rows: how the base is stored does not matter."""
    return repr((replace(config.model, quantization="none"), config.lora, config.engine.precision))
