"""Whether a recipe for one GPU fits the card it is for, and how fast it is: some steps of it, on random weights.

    python -m benchmarks.one_card recipes/gsm8k_mistral_7b_qlora_24gb.yaml --tokenizer models/mistral-tokenizer \
        [--architecture recipes/architectures/mistral-7b] [--gib 24] [--steps 8] [--section.field VALUE ...]

Memory and speed do not depend on what the weights are. PyTorch may take no more than the card has, less 1 GiB for CUDA;
what it took is printed beside what `tacit plan` says of the same recipe, its evaluation included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[1]
CUDA_GIB = 1


def write_random_model(architecture: str, tokenizer: str, folder: Path) -> None:
    """Write a bf16 model of random weights with its tokenizer; it is made on the GPU, which takes seconds for 7B."""
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(architecture), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def measure(recipe: str, folder: Path, gib: float, steps: int, settings: list[str]) -> dict[str, Any]:
    """Train ``steps`` steps, evaluate once, and return what it took beside what the plan says."""
    places = {"model.name_or_path": "model", "data.cache_dir": "cache", "run.output_dir": "run"}
    arguments = ["--config", recipe, *settings, *(f"--{field}={folder / name}" for field, name in places.items())]
    share = (gib - CUDA_GIB) * 2**30 / torch.cuda.get_device_properties(0).total_memory
    limited = {**os.environ, "PYTORCH_ALLOC_CONF": f"per_process_memory_fraction:{share:.4f},expandable_segments:True"}
    few = ["--schedule.max_steps", str(steps), "--run.log_every", "1", "--run.keep_every", "null", "--quiet"]
    tacit = [sys.executable, "-m", "pipeline"]
    subprocess.run([*tacit, "train", *arguments, *few], cwd=ROOT, env=limited, check=True)
    plan = subprocess.run(
        [*tacit, "plan", *arguments, "--json"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    planned = json.loads(plan.stdout)
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    trained = [row for row in rows if row["kind"] == "train"]
    return {
        "gpu": torch.cuda.get_device_name(),
        "recipe": recipe,
        "limit GiB": gib - CUDA_GIB,
        "planned GiB": round(planned["peak_bytes"] / 2**30, 2),
        "planned phase": planned["peak_phase"],
        "measured GiB": round(max(row["memory_mib"] for row in rows if "memory_mib" in row) / 2**10, 2),
        "losses": [round(row["loss"], 3) for row in trained],
        "tokens/s": median(row["tokens_per_second"] for row in trained[1:]),
        "MFU": median(row["mfu"] for row in trained[1:]),
    }


def main() -> None:
    """Measure one recipe and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--tokenizer", required=True, help="Folder.")
    parser.add_argument("--architecture", default="recipes/architectures/mistral-7b")
    parser.add_argument("--gib", type=float, default=24, help="Of the card.")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="Where the model is written, or is; a temporary one if not given.")
    options, settings = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "model").is_dir():
            write_random_model(options.architecture, options.tokenizer, folder / "model")
            torch.cuda.empty_cache()
        print(json.dumps(measure(options.recipe, folder, options.gib, options.steps, settings), indent=1))


if __name__ == "__main__":
    main()
