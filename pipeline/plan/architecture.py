"""What a plan asks of a model's configuration. Building one imports torch, so it is put off until it must be."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import ModelConfig
from pipeline.plan.store import Store

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model's configuration, built or not."""

    as_json: str
    """All of it."""
    num_positions: int
    build: "Callable[[], PretrainedConfig]"
    """Returns it."""


def architecture_of(model_config: "PretrainedConfig") -> Architecture:
    """Return the architecture of a configuration that is there.

    Raises:
        UserError: If it does not say how many positions it has.
    """
    from pipeline.modeling.positions import positions_of  # imports torch, as whoever has built a configuration did

    as_json = model_config.to_json_string(use_diff=False)
    return Architecture(as_json, positions_of(model_config), lambda: model_config)


def find_architecture(settings: ModelConfig, build: "Callable[[], PretrainedConfig]", store: Store) -> Architecture:
    """Return a recipe's architecture; it is not built if it was before, from the same files or settings.

    Args:
        settings: Which model.
        build: Builds its configuration, from nothing but ``settings``.
        store: Knows what was built before.

    Raises:
        UserError: If it cannot be built.
    """
    files = _files_of(settings) if settings.from_scratch is None else []
    if settings.from_scratch is None and not files:
        return architecture_of(build())

    def describe() -> dict[str, str | int]:
        built = architecture_of(build())
        return {"as_json": built.as_json, "num_positions": built.num_positions}

    return Architecture(**store.recall(("architecture", settings, files), describe), build=build)


def _files_of(settings: ModelConfig) -> list[tuple[str, bytes]]:
    """Return names and contents of all files by which Transformers decides what a model is; none if it must look."""
    folder = Path(settings.name_or_path)
    try:
        if folder.is_dir():
            return [(path.name, path.read_bytes()) for path in sorted(folder.glob("*config*.json"))]
        return _files_on_hub(settings.name_or_path)
    except (OSError, ValueError):  # which building will tell
        return []


def _files_on_hub(name: str) -> list[tuple[str, bytes]]:
    """Return a model's configuration as the Hub has it now, under a path that names the commit; none if never loaded.

    What is in the Hub's cache is compared with the Hub, as Transformers does.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache  # a third of a second

    if not isinstance(try_to_load_from_cache(name, "config.json"), str):
        return []  # nothing of it was built before; where there is no Hub, asking for it takes long
    path = hf_hub_download(name, "config.json")
    return [(path, Path(path).read_bytes())]
