"""The DeepSpeed JSON: what it may say, and what the recipe adds to it."""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config import EngineConfig, OptimConfig
from pipeline.errors import UserError

# What comes from the recipe must not come from the DeepSpeed JSON as well, or one would silently win.
RECIPE_KEYS = {
    "train_batch_size": "optim.global_batch_size",
    "train_micro_batch_size_per_gpu": "engine.micro_batch_tokens",
    "gradient_accumulation_steps": "engine.micro_batch_tokens",
    "gradient_clipping": "optim.max_grad_norm",
    "optimizer": "optim.*",
    "scheduler": "optim.lr_schedule",
}

# What may stand in it besides: where weights and optimizer lie, and what DeepSpeed tells of itself.
SECTIONS = ("zero_optimization", "bf16", "communication_data_type", "comms_logger", "wall_clock_breakdown")
OFFLOADS = ("offload_optimizer", "offload_param")


def load_ds_config(config: EngineConfig) -> dict[str, Any]:
    """Read a DeepSpeed JSON; a relative path is looked up here and beside the package.

    Raises:
        UserError: If it cannot be read, or sets what the recipe sets.
    """
    path = Path(config.deepspeed)
    if not path.is_file():
        path = Path(__file__).parents[1] / config.deepspeed
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"engine.deepspeed ({config.deepspeed}): cannot be read ({error.strerror}); check the path."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"engine.deepspeed ({config.deepspeed}): not valid JSON ({error}); correct it.") from error
    if not isinstance(loaded, dict):
        raise UserError(f"engine.deepspeed ({config.deepspeed}): must hold a JSON object.")
    faults = list(_faults(loaded))
    if faults:
        raise UserError("\n".join(f"engine.deepspeed ({config.deepspeed}): {fault}" for fault in faults))
    return loaded


def _faults(loaded: dict[str, Any]) -> Iterator[str]:
    for key in loaded:
        if key in RECIPE_KEYS:
            yield f"sets {key}; take it out, the recipe's {RECIPE_KEYS[key]} says it."
        elif key not in SECTIONS and key != "fp16":
            near = difflib.get_close_matches(key, SECTIONS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it may hold {', '.join(SECTIONS)}."
            yield f"{key} is not a section that it may hold; {hint}"
    zero, bf16 = loaded.get("zero_optimization", {}), loaded.get("bf16", {})
    offloads = {name: zero[name] for name in OFFLOADS if name in zero} if isinstance(zero, dict) else {}
    for name, section in {"zero_optimization": zero, "bf16": bf16, **offloads}.items():
        if not isinstance(section, dict):
            yield f"{name} ({json.dumps(section)}) must be a JSON object; correct it."
        elif name == "offload_optimizer" and section.get("device") == "nvme":
            yield 'offload_optimizer.device ("nvme") keeps the moments where no reset reaches them; take "cpu".'
    if "fp16" in loaded or (isinstance(bf16, dict) and bf16.get("enabled", "auto") != "auto"):
        yield (
            'sets the precision; write "bf16": {"enabled": "auto"}, no fp16: the recipe\'s engine.precision says it.'
        )


def check_suits_quantization(config: EngineConfig, quantization: str) -> None:
    """Refuse to share out quantised weights, which bitsandbytes keeps whole.

    Raises:
        UserError: If the DeepSpeed JSON asks for ZeRO-3 and the base is quantised.
    """
    stage = load_ds_config(config).get("zero_optimization", {}).get("stage", 0)
    if stage == 3 and quantization != "none":
        raise UserError(
            f"engine.deepspeed ({config.deepspeed}) shares out the weights (ZeRO-3), which cannot be done with "
            f"model.quantization {quantization}; take ds_configs/zero2.json, or quantization none."
        )


def fill_ds_config(
    ds_config: dict[str, Any], config: EngineConfig, optim: OptimConfig, hidden_size: int, *, has_gpu: bool
) -> dict[str, Any]:
    """Add what the recipe says; fill "auto" as Transformers' Trainer would, which is not there to do it.

    Args:
        ds_config: As it was read.
        config: Precision.
        optim: Clipping.
        hidden_size: Of the model.
        has_gpu: Whether there is one; without, offloading cannot pin memory.
    """
    zero = dict(ds_config.get("zero_optimization", {}))
    automatic = {
        "reduce_bucket_size": hidden_size * hidden_size,
        "stage3_prefetch_bucket_size": int(0.9 * hidden_size * hidden_size),
        "stage3_param_persistence_threshold": 10 * hidden_size,
    }
    zero.update({key: automatic[key] for key, value in zero.items() if value == "auto" and key in automatic})
    if not has_gpu:
        for offload in OFFLOADS:
            if offload in zero:
                zero[offload] = {**zero[offload], "pin_memory": False}
    return {
        **ds_config,
        "zero_optimization": zero,
        "bf16": {**ds_config.get("bf16", {}), "enabled": config.precision == "bf16"},
        "train_micro_batch_size_per_gpu": 1,  # unused: batches are made here, of varying size
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optim.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**12,
    }
