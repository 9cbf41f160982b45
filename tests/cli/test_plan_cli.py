"""`tacit plan` through the shell."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked import tacit
from tests.tiny import ROOT, write_recipe

pytestmark = pytest.mark.usefixtures("own_home")

GPT2 = "recipes/architectures/gpt2"


def refusal(*arguments: str) -> str:
    finished = tacit("plan", *arguments)
    assert (finished.returncode, finished.stdout) == (2, ""), finished.stderr
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("tacit: error: ")]
    assert "Traceback" not in finished.stderr
    return line.removeprefix("tacit: error: ")


def test_plan_of_a_recipe_with_data(tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path))
    finished = tacit("plan", "--config", recipe)
    assert finished.returncode == 0, finished.stderr
    assert "56 rows in batches of 8: 7 optimizer steps an epoch." in finished.stdout
    for word in ("4 (all)", "optimizer steps", "FLOPs of training", "evaluation", "24 GB: fits", "MiB on each GPU"):
        assert word in finished.stdout
    as_json = tacit("plan", "--config", recipe, "--json")
    told = json.loads(as_json.stdout)
    assert [stage["num_removed"] for stage in told["stages"]] == [0, 1, 2, 3, 4]
    assert told["fastest"]["steps"] == told["slowest"]["steps"] == sum(stage["min_steps"] for stage in told["stages"])
    assert told["peak_bytes"] == max(phase["total"] for phase in told["phases"].values())
    assert [card["gib"] for card in told["cards"]] == [24, 40, 80]
    assert not (tmp_path / "run").exists()
    assert "no faster" not in finished.stdout
    assert "no faster" not in tacit("plan", "--config", recipe, "--gpus", "3").stdout
    too_many = tacit("plan", "--config", recipe, "--gpus", "12")
    assert "12 GPU are no faster than 8: a step has too few rows (optim.global_batch_size 8)" in too_many.stdout


def test_plan_without_recipe_data_or_tokenizer() -> None:
    finished = tacit(
        "plan", "--model.name_or_path", GPT2, "--lengths", "808000,12,46,10", "--gpus=4", "--mfu", "0.5", "--json"
    )
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout)
    assert (told["num_rows"], told["num_weights"], told["num_gpus"], told["mfu"]) == (808_000, 124_439_808, 4, 0.5)
    assert len(told["stages"]) == 47


@pytest.mark.parametrize("on_hub", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["folder", "Hub"])
def test_a_plan_that_was_made_before_waits_for_no_library(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, on_hub: bool
) -> None:
    """Importing these takes longer than all that is left to do."""
    if on_hub:  # which is not asked, but for what was loaded from it before
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setenv("HF_HUB_CACHE", str(own_home / "hub"))
        model = own_home / "hub" / "models--some--gpt2"
        snapshot = model / "snapshots" / "5e1f"
        snapshot.mkdir(parents=True)
        shutil.copy(ROOT / GPT2 / "config.json", snapshot)
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text(snapshot.name)
    name = "some/gpt2" if on_hub else GPT2
    arguments = ["plan", "--model.name_or_path", name, "--lengths", "808000,12,46,10"]
    code = f"""
import sys
from pipeline.cli.main import main
assert main({arguments!r}) == 0
heavy = ("torch", "transformers", "peft", "bitsandbytes", "deepspeed", "datasets", "tokenizers", "pyarrow")
print("loaded:", [name for name in heavy if name in sys.modules], file=sys.stderr)
"""
    cold, warm = (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
        for _ in range(2)
    )
    assert cold.returncode == warm.returncode == 0, cold.stderr + warm.stderr
    assert "torch" in cold.stderr.splitlines()[-1]  # so there was something to do without
    assert warm.stderr.splitlines() == ["loaded: []"]
    assert warm.stdout == cold.stdout
    assert list((own_home / ".cache" / "tacit" / "plans").glob("*.json"))


def test_a_missing_file_offers_lengths(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "train.txt").unlink()
    message = refusal("--config", str(recipe))
    assert message.startswith(str(tmp_path / "train.txt"))
    assert message.endswith("--lengths ROWS,QUESTION,COT,ANSWER (tokens).")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--gpus", "0"), "--gpus (0) must be a whole number of at least 1; correct it."),
        (("--gpus", "two"), "--gpus (two) must be a whole number of at least 1; correct it."),
        (("--mfu", "1.5"), "--mfu (1.5) must be a number above 0 and at most 1; correct it."),
        (("--tflops", "nan"), "--tflops (nan) must be a number above 0"),
        (("--tflops", "inf"), "--tflops (inf) must be a number above 0"),
        (("--rows", "9", "--lengths", "1,2,3,4"), "--rows and --lengths exclude each other"),
        (("--lengths", "1,2"), "--lengths (1,2) must be ROWS,QUESTION,COT,ANSWER"),
        (("--lengths", "abc"), "and at most 10,000,000 tokens; correct it."),
        (("--lenghts", "1,2,3,4"), "--lenghts: unknown option of tacit plan. Did you mean --lengths?"),
        (("--gpus",), "--gpus has no value; write --gpus VALUE."),
        (("--optim.lrr", "1"), "optim.lrr: unknown setting. Did you mean optim.lr?"),
    ],
)
def test_wrong_use_is_told_in_one_line(arguments: tuple[str, ...], says: str) -> None:
    assert says in refusal("--config", "recipes/demo.yaml", *arguments)


def test_help_names_options_and_settings() -> None:
    finished = tacit("plan", "--help")
    assert (finished.returncode, finished.stderr) == (0, "")
    for option in ("--gpus", "--rows", "--lengths", "--tflops", "--mfu", "--json", "--config", "--engine.precision"):
        assert option in finished.stdout


def test_a_model_that_does_not_state_its_positions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bloom", "vocab_size": 32, "hidden_size": 16, "n_layer": 2}')
    told = refusal(
        *("--config", "recipes/multiplication_4x4_gpt2.yaml", "--model.name_or_path", str(tmp_path)),
        *("--lengths", "100,10,10,5"),
    )
    assert told.startswith("model: bloom does not state how many positions it has")
