"""Puts a model under DeepSpeed."""

from collections.abc import Callable

import deepspeed
import torch._dynamo  # noqa: F401  (imported inside zero.Init it fails on a signature check)
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from transformers import PreTrainedModel
from transformers.integrations import HfDeepSpeedConfig

from pipeline.config import EngineConfig, OptimConfig
from pipeline.ds_config import fill_ds_config, load_ds_config
from pipeline.engine.engine import Engine
from pipeline.engine.master_weights import step_all_at_once
from pipeline.engine.optimizer import make_optimizer
from pipeline.errors import UserError, in_one_line
from pipeline.ranks import world_size


def build_engine(
    make_model: Callable[[], PreTrainedModel],
    hidden_size: int,
    config: EngineConfig,
    optim: OptimConfig,
    seed: int,
    *,
    partitions_on_load: bool,
    padding_free: bool = True,
) -> Engine:
    """Put a model under DeepSpeed, with AdamW.

    Args:
        make_model: Builds the model.
        hidden_size: Of the model, for DeepSpeed's bucket sizes.
        config: DeepSpeed JSON and precision.
        optim: AdamW's settings.
        seed: Seeds dropout.
        partitions_on_load: Under ZeRO-3, whether weights are shared out while ``make_model`` loads them, so that no
            rank ever holds the whole model.
        padding_free: Whether rows go into the model without padding, where its attention allows that.

    Raises:
        UserError: If the DeepSpeed JSON is at fault.
    """
    ds_config = fill_ds_config(load_ds_config(config), config, optim, hidden_size, has_gpu=torch.cuda.is_available())
    # Transformers looks this up while a model loads, through a weak reference: it must live until then.
    zero_config = HfDeepSpeedConfig(ds_config) if partitions_on_load else None
    model = make_model()
    del zero_config
    optimizer = make_optimizer([parameter for parameter in model.parameters() if parameter.requires_grad], optim)
    try:
        ds_engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=ds_config)
    except ValueError as error:
        raise UserError(
            f"engine.deepspeed ({config.deepspeed}): DeepSpeed refuses it ({in_one_line(error)}); correct it."
        ) from error
    if world_size() == 1 and ds_engine.zero_optimization_stage() == 0:
        # There is nobody to share gradients with, and DeepSpeed would copy all of them to do so.
        ds_engine.enable_backward_allreduce = False
    if isinstance(ds_engine.optimizer, FP16_UnfusedOptimizer):  # bf16 without ZeRO
        step_all_at_once(ds_engine.optimizer)
    engine = Engine(ds_engine, optimizer, seed, padding_free=padding_free)
    # With bf16 and no ZeRO, DeepSpeed allocates the moments by a step on zero gradients, which counts as the first.
    engine.reset_optimizer_state()
    return engine
