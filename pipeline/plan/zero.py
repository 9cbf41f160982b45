"""The DeepSpeed settings that memory depends on."""

from dataclasses import dataclass

from pipeline.config import EngineConfig, OptimConfig
from pipeline.ds_config import fill_ds_config, load_ds_config

# DeepSpeed's own values where the JSON is silent (deepspeed.runtime.zero.config, 0.19.8).
DEFAULT_BUCKET = 500_000_000
DEFAULT_PREFETCH = 50_000_000
DEFAULT_PERSISTENCE = 100_000
DEFAULT_MAX_LIVE = 1_000_000_000
DEFAULT_REUSE_DISTANCE = 1_000_000_000
DEFAULT_SUB_GROUP = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ZeroSettings:
    """How weights, gradients and optimizer are shared out; sizes in numbers, not bytes."""

    stage: int
    offloads_optimizer: bool
    offloads_weights: bool
    reduce_bucket: int
    """Gradients that are summed over the ranks at once."""
    num_buckets: int
    """Two where communication overlaps with the backward pass (ZeRO-1 and 2)."""
    prefetch: int
    """Weights gathered ahead (ZeRO-3)."""
    persistence: int
    """Parameters up to this size are kept whole on every rank (ZeRO-3)."""
    reuse_distance: int
    """A gathered weight is kept if it is needed again within so many weights (ZeRO-3)."""
    max_live: int
    """Gathered weights above which none is gathered ahead (ZeRO-3)."""
    sub_group: int
    """Weights that the optimizer updates at once (ZeRO-3)."""


def zero_settings(engine: EngineConfig, optim: OptimConfig, hidden_size: int) -> ZeroSettings:
    """Read a recipe's DeepSpeed JSON, filled as training fills it.

    Raises:
        UserError: If it cannot be read, or sets what the recipe sets.
    """
    zero = fill_ds_config(load_ds_config(engine), engine, optim, hidden_size, has_gpu=True)["zero_optimization"]
    stage = zero.get("stage", 0)

    def offloads(what: str) -> bool:
        return stage > 0 and zero.get(f"offload_{what}", {}).get("device", "none") != "none"

    return ZeroSettings(
        stage=stage,
        offloads_optimizer=offloads("optimizer"),
        offloads_weights=offloads("param"),
        reduce_bucket=int(zero.get("reduce_bucket_size", DEFAULT_BUCKET)),
        num_buckets=2 if stage < 3 and zero.get("overlap_comm") else 1,
        prefetch=int(zero.get("stage3_prefetch_bucket_size", DEFAULT_PREFETCH)),
        persistence=int(zero.get("stage3_param_persistence_threshold", DEFAULT_PERSISTENCE)),
        reuse_distance=int(zero.get("stage3_max_reuse_distance", DEFAULT_REUSE_DISTANCE)),
        max_live=int(zero.get("stage3_max_live_parameters", DEFAULT_MAX_LIVE)),
        sub_group=int(zero.get("sub_group_size", DEFAULT_SUB_GROUP)),
    )
