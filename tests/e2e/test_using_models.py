"""An exported model in other people's programs answers as it was evaluated here."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import pipeline

from pipeline.cli.main import main
from pipeline.config import load_config
from pipeline.scoring import extract_answer
from tests.tiny import ROOT, write_recipe


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that has learned something, exported, beside the rows it is asked."""
    folder = tmp_path_factory.mktemp("used")
    recipe = write_recipe(folder, run__keep_stages=[0], optim__lr=1e-2, schedule__final_epochs=8)
    assert main(["train", "--config", str(recipe), "--quiet"]) == 0
    assert main(["export", str(folder / "run"), "--output", str(folder / "exported")]) == 0
    return folder / "exported"


def evaluated(model: Path, capsys: pytest.CaptureFixture[str]) -> tuple[float, dict[str, str]]:
    """Return the accuracy of `tacit evaluate`, and its prediction for each question."""
    rows, samples = model.parent / "test.txt", model.parent / "samples.jsonl"
    capsys.readouterr()
    assert main(["evaluate", "--model", str(model), "--data", str(rows), "--samples", str(samples), "--json"]) == 0
    accuracy = json.loads(capsys.readouterr().out)["accuracy"]
    answers = map(json.loads, samples.read_text().splitlines())
    return accuracy, {sample["question"]: sample["prediction"] for sample in answers}


def test_a_plain_pipeline_gives_the_evaluated_answers(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, predictions = evaluated(exported, capsys)
    generate = pipeline("text-generation", model=str(exported), return_full_text=False, do_sample=False)
    texts = generate([f"{question} = " for question in predictions], max_new_tokens=16)
    written = [extract_answer(text[0]["generated_text"]) for text in texts]
    assert written == list(predictions.values())
    assert len(set(written)) > 1  # not one answer to everything


def test_the_card_says_what_the_run_measured_and_where_it_came_from(exported: Path) -> None:
    _, metadata, text = (exported / "README.md").read_text().split("---\n", 2)
    result = yaml.safe_load(metadata)["model-index"][0]["results"][0]
    rows = [json.loads(line) for line in (exported.parent / "run" / "metrics.jsonl").read_text().splitlines()]
    best = max(row["accuracy"] for row in rows if row["kind"] == "evaluation" and row["num_removed"] == 4)
    assert result["metrics"][0] == {"type": "accuracy", "value": round(best, 4)}
    assert "7 validation rows" in text and f"{100 * best:.1f} %" in text
    assert "trained from scratch" in text and "removed_per_epoch: 3" in text and "arXiv:2405.14838" in text


def test_the_card_names_base_and_licence(exported: Path, tmp_path: Path) -> None:
    base = exported.parent / "exported"
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    recipe = write_recipe(tmp_path, schedule__max_steps=1, model={"name_or_path": str(base)})
    assert main(["train", "--config", str(recipe), "--quiet"]) == 0
    assert main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit" in card and f"Trained from `{base}`, under the licence mit." in card
    assert main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "other"), "--license", "apache-2.0"]) == 0
    assert "license: apache-2.0" in (tmp_path / "other" / "README.md").read_text()


def test_the_card_shows_the_frontier_where_it_was_measured(exported: Path, tmp_path: Path) -> None:
    run = exported.parent / "run"
    assert main(["frontier", str(run), "--data", str(exported.parent / "test.txt"), "--num_timed", "2"]) == 0
    assert main(["export", str(run), "--output", str(tmp_path / "out")]) == 0
    assert "![Accuracy against speed of every kept stage](frontier.png)" in (tmp_path / "out" / "README.md").read_text()
    assert (tmp_path / "out" / "frontier.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_lm_evaluation_harness_finds_the_same_accuracy(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval")
    accuracy, predictions = evaluated(exported, capsys)
    rows = tmp_path / "test.jsonl"
    assert main(["data", "convert", "--input", str(exported.parent / "test.txt"), "--output", str(rows)]) == 0
    task = {
        "include": str(ROOT / "recipes" / "lm_eval" / "tacit_demo.yaml"),
        "task": "mine",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(task))
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={exported}"]
    command += ["--tasks", "mine", "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    command += ["--batch_size", "4", "--device", "cpu", "--log_samples"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (results,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(results.read_text())["results"]["mine"]["exact_match,answer"] == pytest.approx(accuracy)
    (logged,) = (tmp_path / "out").rglob("samples_mine_*.jsonl")
    answers = [json.loads(line) for line in logged.read_text().splitlines()]
    assert {row["doc"]["question"]: row["filtered_resps"][0] for row in answers} == predictions


@pytest.mark.parametrize("name", ["tacit_multiplication", "tacit_gsm8k_direct", "tacit_demo"])
def test_a_task_file_writes_rows_as_the_recipes_do(name: str) -> None:
    """The prompt of a task is that of a row in the format that it names, and its answer is found in what follows."""
    folder = ROOT / "recipes" / "lm_eval"
    task = yaml.safe_load((folder / f"{name}.yaml").read_text())
    if "include" in task:
        task = {**yaml.safe_load((folder / task["include"]).read_text()), **task}
    recipes = {"tacit_multiplication": "multiplication_4x4_gpt2", "tacit_gsm8k_direct": "gsm8k_gpt2_small"}
    path = ROOT / "recipes" / f"{recipes.get(name, 'demo')}.yaml"
    form = load_config(path).format
    ends = form.second_separator if form.second_separator == "{eos}" else ""
    prompt = f"{form.question}{form.first_separator}{ends}"
    prompt = prompt.replace("{question}", "{{question}}").replace("{bos}", "").replace("{eos}", "<|endoftext|>")
    assert task["doc_to_text"] == prompt
    writes_separator = form.keep_second_separator and not ends
    written = f"{form.second_separator if writes_separator else ''}{form.answer}".replace("{answer}", "1 2")
    assert re.findall(task["filter_list"][0]["filter"][0]["regex_pattern"], written) == ["1 2"]
