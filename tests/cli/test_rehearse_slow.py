"""Recipes of the paper rehearse, one for each architecture and way of finetuning, with no weights at hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import load_config
from pipeline.records import write_records
from pipeline.tasks import Multiplication, generate_splits
from tests.tiny import ROOT, shell_environment

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("recipe", "architecture"),
    [
        ("multiplication_4x4_gpt2", "gpt2"),
        ("gsm8k_gpt2_medium", "gpt2-medium"),
        ("gsm8k_phi3_mini", "phi-3-mini"),
        ("gsm8k_mistral_7b", "mistral-7b"),
        ("gsm8k_mistral_7b_lora_24gb", "mistral-7b"),
        ("gsm8k_mistral_7b_qlora_24gb", "mistral-7b"),
    ],
)
def test_a_recipe_rehearses(tmp_path: Path, recipe: str, architecture: str) -> None:
    for name, rows in generate_splits([Multiplication(2, 2)], 80, 13, 9, seed=3).items():
        write_records(tmp_path / f"{name}.txt", rows)
    settings = {
        "data.train": tmp_path / "train.txt",
        "data.validation": tmp_path / "validation.txt",
        "data.cache_dir": tmp_path / "cache",
        "model.name_or_path": ROOT / "recipes" / "architectures" / architecture,
        "model.tokenizer": "words",
        "run.output_dir": tmp_path / "run",
    }
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    path = ROOT / "recipes" / f"{recipe}.yaml"
    command = [sys.executable, "-m", "pipeline", "train", "--config", str(path), *options, "--rehearse", "--json"]
    environment = shell_environment()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=580, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["num_removed"] == result["num_removed_in_full"] == 8  # 3 + 1 + 4 tokens
    folder = Path(result["folder"])
    rehearsed, wanted = load_config(folder / "recipe.yaml"), load_config(path)
    assert rehearsed.engine.deepspeed == wanted.engine.deepspeed
    assert (folder / "model" / "adapter_model.safetensors").exists() == (wanted.lora.rank is not None)
    assert (folder / "exported" / "model.safetensors").exists()
