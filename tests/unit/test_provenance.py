"""A model card states the evaluation that was this model's, and no better one of the same run."""

import json
from pathlib import Path

import pytest
import yaml

from pipeline.answer_spec import AnswerSpec
from pipeline.config import FormatConfig
from pipeline.provenance import Provenance, provenance_of

# Step, removed, accuracy: the stages end at steps 20 and 40, and the model kept is that of step 30.
EVALUATIONS = ((10, 0, 0.9), (20, 0, 0.7), (30, 4, 0.8), (40, 4, 0.6))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    recipe = {
        "model": {"name_or_path": str(tmp_path / "base")},
        "data": {"validation": "rows/validation.txt"},
        "schedule": {"kind": "fixed"},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rows = [
        {
            "kind": "evaluation",
            "step": step,
            "stage": removed,
            "num_removed": removed,
            "accuracy": accuracy,
            "num_examples": 50,
            "cot_tokens": 4.0 - removed,
        }
        for step, removed, accuracy in EVALUATIONS
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tacit.json").write_text(json.dumps({"num_removed": 4, "removes_all": True, "step": 30}))
    return tmp_path


def spec_at(num_removed: int) -> AnswerSpec:
    return AnswerSpec(FormatConfig(), num_removed, num_removed == 4, "left", "token", False, 4)


@pytest.mark.parametrize(
    ("folder", "num_removed", "accuracy"),
    [
        ("model", 4, 0.8),  # the best of the last stage
        ("stages/removed_0000", 0, 0.7),  # kept when its stage ended
        ("stages/removed_0004", 4, 0.6),
        ("checkpoints/step_00000010", 0, 0.9),
        ("checkpoints/step_00000015", 0, None),  # not evaluated
    ],
)
def test_a_model_has_its_own_evaluation(run_dir: Path, folder: str, num_removed: int, accuracy: float | None) -> None:
    found = provenance_of(run_dir / folder, spec_at(num_removed))
    assert found.accuracy == accuracy
    assert (found.num_examples, found.cot_tokens) == ((0, 0.0) if accuracy is None else (50, 4.0 - num_removed))
    assert (found.base_model, found.validation) == (str(run_dir / "base"), "validation.txt")


def test_a_model_is_the_same_by_any_name(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run_dir / "checkpoints" / "step_00000010").mkdir(parents=True)
    (run_dir / "checkpoints" / "latest").symlink_to("step_00000010")
    assert provenance_of(run_dir / "checkpoints" / "latest", spec_at(0)).accuracy == 0.9
    best = run_dir.with_name("best")
    best.symlink_to(run_dir / "model")
    assert provenance_of(best, spec_at(4)).accuracy == 0.8
    monkeypatch.chdir(run_dir / "model")
    assert provenance_of(Path(), spec_at(4)).accuracy == 0.8


def test_the_licence_is_what_the_card_of_the_base_says(run_dir: Path) -> None:
    assert provenance_of(run_dir / "model", spec_at(4)).license == ""
    (run_dir / "base").mkdir()
    (run_dir / "base" / "README.md").write_text("---\nlicense: mit\n---\n")
    assert provenance_of(run_dir / "model", spec_at(4)).license == "mit"


def test_a_folder_outside_any_run_has_none(tmp_path: Path) -> None:
    assert provenance_of(tmp_path / "model", spec_at(4)) == Provenance()
