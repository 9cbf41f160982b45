"""Every check that needs PyTorch, in the order they are told."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from pipeline.config import Config, DataConfig
from pipeline.doctor.attention_trap import check_attention, check_gap
from pipeline.doctor.finding import Finding
from pipeline.doctor.hardware import (
    check_devices,
    check_disk,
    check_memory,
    check_open_files,
    check_shared_memory,
    check_threads,
)
from pipeline.doctor.recipe import check_data, check_ds_config, check_model, read_recipe
from pipeline.doctor.software import INSTALL
from pipeline.doctor.trials import check_bitsandbytes, check_communication
from pipeline.modeling import build_model_config, build_tokenizer
from pipeline.modeling.attention import choose_attention

Checks = Sequence[tuple[str, str, Callable[[], Sequence[Finding]]]]
"""Name, remedy should the check itself raise, and the check."""


def all_checks(*recipes: Path) -> Checks:
    """Return the checks of this machine, and of a recipe and what it names.

    Args:
        recipes: The recipe's YAML files, if there is one. Where it is faulty, what it names is not looked for.
    """
    if not recipes:
        return _checks_of_machine(None)
    config, findings = read_recipe(*recipes)
    of_recipe = _checks_of_recipe(config) if config else ()
    return (("recipe", "correct it", lambda: findings), *_checks_of_machine(config), *of_recipe)


def _checks_of_machine(config: Config | None) -> Checks:
    precision = config.engine.precision if config else None
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    wanted = config.model.attention if config else "auto"
    model_class = _model_class(config)
    run_dir = Path(config.run.output_dir if config else "runs")
    cache_dir = Path((config.data if config else DataConfig()).cache_dir)
    folders = (("disk, runs", run_dir), ("disk, rows' cache", cache_dir), ("disk, Hub's cache", Path(HF_HUB_CACHE)))
    return (
        ("devices", "see that `nvidia-smi` works, and restart the driver", lambda: check_devices(precision)),
        ("communication", "set GLOO_SOCKET_IFNAME to a network interface, such as lo", check_communication),
        (
            "attention",
            "build flash-attn anew for this PyTorch, or set model.attention sdpa",
            lambda: check_attention(wanted, dtype, model_class),
        ),
        ("position gaps", INSTALL, lambda: check_gap(choose_attention(wanted, dtype, model_class)[0], dtype)),
        (
            "bitsandbytes",
            "install the pinned bitsandbytes; until then no model.quantization and optim.optimizer adamw",
            check_bitsandbytes,
        ),
        ("memory", "free some", check_memory),
        ("disk", "name folders that exist", lambda: check_disk(folders)),
        ("shared memory", "start the container with --shm-size 16g", check_shared_memory),
        ("open files", "ulimit -n 65536", check_open_files),
        ("threads", "set OMP_NUM_THREADS", lambda: check_threads(config.engine.num_threads if config else None)),
    )


def _checks_of_recipe(config: Config) -> Checks:
    return (
        ("DeepSpeed JSON", "take one of ds_configs/", lambda: check_ds_config(config)),
        ("model", "check model.*", lambda: check_model(config)),
        ("data", "check data.*", lambda: check_data(config.data)),
    )


def _model_class(config: Config | None) -> type[PreTrainedModel]:
    """Return the recipe's architecture, or one with every kernel where there is none or it is not at hand."""
    if config is None or (config.model.name_or_path and not Path(config.model.name_or_path).is_dir()):
        return LlamaForCausalLM
    try:
        model_config = build_model_config(config.model, build_tokenizer(config.model))
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(model_config)]
    except Exception:  # the recipe's own check tells it
        return LlamaForCausalLM
