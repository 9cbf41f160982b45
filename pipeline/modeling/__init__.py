"""Model and tokenizer of a recipe: pretrained or from scratch, with adapters, quantised, with more positions."""

from pipeline.modeling.model import (
    build_model,
    build_model_config,
    build_tokenizer,
    check_size,
    check_takes_positions,
)
from pipeline.modeling.saved import load_for_inference

__all__ = [
    "build_model",
    "build_model_config",
    "build_tokenizer",
    "check_size",
    "check_takes_positions",
    "load_for_inference",
]
