"""Where a saved model comes from: recipe, figures and base, as its run directory tells them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

from pipeline.answer_spec import AnswerSpec
from pipeline.stage_registry import run_of


@dataclass(frozen=True, slots=True)
class Provenance:
    """What is known of a model's run; all empty for a folder outside any run."""

    recipe: str = ""
    """YAML, every setting."""
    base_model: str = ""
    """What training started from; empty if from scratch."""
    license: str = ""
    """Of the base, where its own card lies at hand; a model card's metadata name for it."""
    accuracy: float | None = None
    """Validation accuracy: the best of the run with as much removed."""
    num_examples: int = 0
    """Validation rows."""
    cot_tokens: float = 0.0
    """CoT tokens written, mean over these rows."""
    validation: str = ""
    """Name of the validation rows."""
    frontier: dict[str, Any] | None = None
    """What ``tacit frontier`` found, if it was run."""


def provenance_of(folder: Path, spec: AnswerSpec) -> Provenance:
    """Read what the run around a model folder, a kept stage or a checkpoint tells.

    Args:
        folder: The model's own folder.
        spec: How it is to be asked.
    """
    run_dir = run_of(folder)
    if run_dir is None:
        return Provenance()
    recipe = (run_dir / "recipe.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(recipe)
    base = settings["model"]["name_or_path"]
    evaluations = [row for row in _rows(run_dir / "metrics.jsonl") if row["num_removed"] == spec.num_removed]
    best = max(evaluations, key=lambda row: (row["accuracy"], row["step"]), default=None)
    path = run_dir / "frontier.json"
    return Provenance(
        recipe,
        base,
        _license_of(base),
        best["accuracy"] if best else None,
        best["num_examples"] if best else 0,
        best["cot_tokens"] if best else 0.0,
        Path(settings["data"]["validation"]).name,
        json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None,
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith('{"kind": "evaluation"') and line.endswith("}")]


def _license_of(base: str) -> str:
    card = Path(base) / "README.md"
    if not base or not card.is_file():
        return ""
    try:
        return str(ModelCard.load(card).data.get("license") or "")
    except (OSError, ValueError):  # a card of another form is no fault of the export
        return ""
