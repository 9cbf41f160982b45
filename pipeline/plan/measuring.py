"""Builds models as fake tensors and runs them; of many layers that are alike, a few are traced."""

import torch
from transformers import PretrainedConfig

from pipeline.config import Config
from pipeline.model_size import ModelSize
from pipeline.modeling.fake_model import FakeModel, build_fake_model, with_layers, with_positions
from pipeline.plan.keys import model_key
from pipeline.plan.peaks import DecodingTrace, MicroBatchTrace, between
from pipeline.plan.trace import trace_decoding, trace_micro_batch

FEW_LAYERS = (2, 3)  # that are traced; of more that are like them, the bytes grow in proportion


class Measuring:
    """Measures models of one architecture; each is built once."""

    def __init__(self, model_config: PretrainedConfig) -> None:
        self._model_config = model_config
        self._models: dict[tuple[str, int | None], FakeModel] = {}

    def size(self, config: Config) -> ModelSize:
        """Return the size of a recipe's model.

        Raises:
            UserError: If it cannot be built.
        """
        return self._model(config).size

    def micro_batch(self, config: Config, num_rows: int, row_length: int, num_labels: int) -> MicroBatchTrace:
        """Return the worst moments of a micro-batch, as ``trace_micro_batch`` finds them."""
        models, share = self._models_to_trace(config)
        traces = [trace_micro_batch(model, num_rows, row_length, num_labels) for model in models]
        return between(traces[0], traces[-1], share)

    def decoding(self, config: Config, prompt_length: int) -> DecodingTrace:
        """Return what decoding one prompt begins with, as ``trace_decoding`` finds it."""
        models, share = self._models_to_trace(config)
        traces = [trace_decoding(model, 1, prompt_length) for model in models]
        first, last = traces[0], traces[-1]
        return DecodingTrace(
            round(first.peak + share * (last.peak - first.peak)),
            round(first.cache + share * (last.cache - first.cache)),
        )

    def _models_to_trace(self, config: Config) -> tuple[list[FakeModel], float]:
        """Return two models of a few layers, and the place of the recipe's own on the line through them, 0 the first.

        Where its layers are few, or not all alike, it is the only one.
        """
        whole = self._model(config)
        num_layers, (fewer, more) = whole.size.num_layers, FEW_LAYERS
        if num_layers <= more:
            return [whole], 0.0
        models, share = [self._model(config, number) for number in FEW_LAYERS], (num_layers - fewer) / (more - fewer)
        weights = [model.size.num_weights for model in models]
        if whole.size.num_weights != weights[0] + share * (weights[1] - weights[0]):
            return [whole], 0.0
        return models, share

    def _model(self, config: Config, num_layers: int | None = None) -> FakeModel:
        """Return a recipe's model, or one with so many of its layers."""
        key = (model_key(config), num_layers)
        if key not in self._models:
            model_config, num_positions = self._model_config, config.model.num_positions
            if num_positions is not None and num_positions > model_config.max_position_embeddings:
                model_config = with_positions(model_config, num_positions)
            if num_layers is not None:
                model_config = with_layers(model_config, num_layers)
            dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
            self._models[key] = build_fake_model(model_config, config.model, config.lora, dtype)
        return self._models[key]
