"""Where a saved model comes from: recipe, figures and base, as its run directory tells them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from pipeline.answer_spec import AnswerSpec
from pipeline.report.analysis import kept_evaluation
from pipeline.report.run import Row, Run, read_run
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
    """Validation accuracy of this model; None where it was not evaluated."""
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

    Raises:
        UserError: If a file of the run is not what a command of ours wrote.
    """
    run_dir, folder = run_of(folder), folder.resolve()  # a link, or a dot, tells no stage or step
    if run_dir is None or not (run_dir / "metrics.jsonl").is_file():
        return Provenance()
    run = read_run(run_dir)
    base = run.setting("model.name_or_path") or ""
    evaluation = _evaluation_of(folder, spec, run) or {}
    return Provenance(
        recipe=run.recipe_text,
        base_model=base,
        license=_license_of(base),
        accuracy=evaluation.get("accuracy"),
        num_examples=evaluation.get("num_examples", 0),
        cot_tokens=evaluation.get("cot_tokens", 0.0),
        validation=Path(run.setting("data.validation")).name,
        frontier=run.frontier,
    )


def _evaluation_of(folder: Path, spec: AnswerSpec, run: Run) -> Row | None:
    """Return the evaluation of a run that was this model's; None where it was not evaluated."""
    if folder.name == "model":
        return kept_evaluation(run)
    there = [row for row in run.evaluations if row["num_removed"] == spec.num_removed]
    if folder.parent.name == "checkpoints":
        there = [row for row in there if f"step_{row['step']:08d}" == folder.name]
    return there[-1] if there else None  # a stage's model is kept when it ends


def _license_of(base: str) -> str:
    card = Path(base) / "README.md"
    if not base or not card.is_file():
        return ""
    try:
        return str(ModelCard.load(card).data.get("license") or "")
    except (OSError, ValueError):  # a card of another form is no fault of the export
        return ""
