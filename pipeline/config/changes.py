"""What a resumed run has changed in its recipe, and what it may."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from pipeline.config.schema import Config

# These shape the steps to come, or none at all.
FREE_ON_RESUME = (
    "data.train",  # a file may be moved: its content is compared
    "data.validation",
    "data.cache_dir",
    "model.padding_free",
    "schedule.max_steps",
    "schedule.final_epochs",
    "schedule.adaptive.loss_threshold",
    "schedule.adaptive.min_steps",
    "schedule.adaptive.max_steps",
    "engine.micro_batch_tokens",
    "engine.num_threads",
    "engine.rank_timeout",
    "evaluation.",
    "optim.final_decay",
    "optim.on_nonfinite",
    "optim.max_nonfinite",
    "run.output_dir",
    "run.log_every",
    "run.checkpoint_every",
    "run.checkpoint_minutes",
    "run.keep_checkpoints",
    "run.keep_stage_checkpoints",
    "run.keep_stages",
    "run.keep_every",
    "run.trackers",
    "run.collapse_ratio",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """A setting that is another one than when the run began."""

    name: str
    before: Any
    now: Any

    @property
    def is_free(self) -> bool:
        """Whether a resumed run may change it; else it would become another run than it was."""
        return self.name.startswith(FREE_ON_RESUME)


def changes(before: Config, now: Config) -> list[Change]:
    """Return what a resumed run has changed in its recipe."""
    return [Change(*difference) for difference in _differences(dataclasses.asdict(before), dataclasses.asdict(now))]


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for name, old in before.items():
        new = now[name]
        if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name}", old, new
