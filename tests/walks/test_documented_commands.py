"""Every command in README and docs is run, as it is written, where a small world has what it names."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli.main import main
from tests.gpt2_style import build_gpt2_style
from tests.tiny import ROOT, free_port, shell_environment, write_recipe
from tests.walks.commands import Command, commands_of, pages

# What is not run here, and why. Blocks marked `gpu` in a page need no line.
NOT_RUN = {
    r"make demo": "tests/e2e/test_demo_slow.py runs it",
    r"make test$": "runs this",
    r"make bench|python -m benchmarks": "20 minutes on a quiet machine",
    r"docker ": "needs Docker; experiments/2026-11-23_docker",
    r"sbatch ": "needs Slurm; tests/launch/test_slurm.py",
    r"launchers/one_24gb_card\.sh .*mistral_7b": "needs a GPU; tests/cli/test_launchers.py runs the script",
    r"tacit train .*(mistral_7b.yaml --data|multiplication_)": "needs a GPU",
    r"tacit doctor .*mistral_7b": "needs Mistral's tokenizer; another page asks about the demo's recipe",
    r"tacit train .*mistral_7b.yaml --rehearse": "needs Mistral's tokenizer; tests/cli/test_rehearse_slow.py",
    r"tacit train .*--model.quantization nf4": "minutes on a CPU; tests/e2e and tests/distributed train with NF4",
    r"lm_eval ": "tests/e2e/test_using_models.py",
    r"tensorboard ": "serves until it is ended",
}
PAGES_WITH_TESTS_OF_THEIR_OWN = ("your-data.md",)  # tests/walks/test_your_data.py
SERVES = r"tacit web"  # ended as by Ctrl-C
TINY = "--model.name_or_path MODEL --engine.precision fp32 --schedule.max_steps 2 --overwrite"
OWN_ROWS = "--model.name_or_path MODEL --data.train my/train.jsonl --data.validation my/validation.jsonl"
# What a command gets besides: a small model instead of one that is downloaded, few steps.
APPENDED = {
    r"tacit (export|data split) ": "--overwrite",  # pages share the world
    r"tacit train .*recipes/your_data.yaml": f"{TINY} --run.output_dir runs/own",  # runs/mine has to stay for others
    r"tacit preview .*recipes/your_data.yaml": f"{OWN_ROWS} --data.max_tokens 500",
    r"recipes/smollm2_gsm8k_cpu.yaml": f"{TINY} --data.train my/train.jsonl --data.validation my/validation.jsonl",
    r"tacit plan .*--gpus 8$": "--model.name_or_path recipes/architectures/mistral-7b --lengths 378000,61,80,9",
    r"--run.trackers": "--run.output_dir runs/tracked",
    r"tacit web .*demo_seed0$": "--port PORT",
}
REPLACED = {
    "openai/gsm8k:main": "my/gsm8k.jsonl",
    "--num_validation 500": "--num_validation 2",
    "[tensorboard, wandb]": "[tensorboard]",
    "RECIPE": "tiny.yaml",
}
SHARED = ("recipes", "launchers", "ds_configs", "docker", "benchmarks", "pipeline")


def reason_not_to_run(command: Command) -> str | None:
    if command.needs_gpu:
        return "marked as needing a GPU"
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, command.text)), None)


def as_run(text: str) -> str:
    """Return a command as it is run here."""
    for old, new in REPLACED.items():
        text = text.replace(old, new)
    extra = [options for pattern, options in APPENDED.items() if re.search(pattern, text)]
    return " ".join([text, *extra]).replace("MODEL", "models/tiny").replace("PORT", str(free_port()))


def test_no_rule_is_left_over() -> None:
    texts = [command.text for page in pages() for command in commands_of(page)]
    assert len(texts) > 40
    for pattern in (*NOT_RUN, *APPENDED, SERVES):
        assert any(re.search(pattern, text) for text in texts), pattern
    for old in REPLACED:
        assert any(old in text for text in texts), old


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder that looks like a checkout in which somebody has worked."""
    folder = tmp_path_factory.mktemp("world")
    for name in SHARED:
        (folder / name).symlink_to(ROOT / name)
    recipe = write_recipe(folder, run__keep_every=2, evaluation__every_stages=1)
    recipe.rename(folder / "tiny.yaml")
    assert main(["train", "--config", str(folder / "tiny.yaml"), "--quiet"]) == 0
    runs = folder / "runs"
    runs.mkdir()
    names = ("mine", "mine_no_cot", "explicit", "demo_seed0", "demo_seed0_no_cot", "mult", "a", "b")
    for name in (*names, "gsm8k_mistral_7b_qlora_24gb"):
        shutil.copytree(folder / "run", runs / name, symlinks=True)
    newest = max((runs / "mine" / "checkpoints").glob("step_*"))
    shutil.copytree(newest, newest.with_name("step_00012000"))
    (folder / "data" / "lock").mkdir(parents=True)
    for name in ("train", "validation", "test"):
        shutil.copy(folder / f"{name}.txt", folder / "data" / "lock" / f"{name}.txt")
    _write_own_rows(folder / "my")
    _write_small_model(folder / "models" / "tiny")
    yield folder


def _write_own_rows(folder: Path) -> None:
    folder.mkdir()
    rows = [
        {"question": f"how many apples {i} + 1 ?", "cot": f"<<{i}+1={i + 1}>>", "answer": str(i + 1)} for i in range(9)
    ]
    for name, part in {"rows": rows, "train": rows[:6], "validation": rows[6:]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    own = [{"question": row["question"], "answer": f"{row['cot']}\n#### {row['answer']}"} for row in rows]
    (folder / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))


def _write_small_model(folder: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = build_gpt2_style()
    tokenizer.save_pretrained(folder)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=512)
    GPT2LMHeadModel(config).save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_the_commands_of_a_page_work(page: Path, world: Path) -> None:
    if page.name in PAGES_WITH_TESTS_OF_THEIR_OWN:
        pytest.skip("has a test of its own")
    for command in commands_of(page):
        if reason_not_to_run(command) is None:
            _run(as_run(command.text), world)


def _run(text: str, folder: Path) -> None:
    environment = shell_environment(HF_HUB_OFFLINE="1", WANDB_MODE="offline", PYTHONPATH=str(ROOT), HOME=str(folder))
    serves = re.search(SERVES, text) is not None
    process = subprocess.Popen(
        ["bash", "-c", f"exec {text}"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if serves:
        time.sleep(25)
        assert process.poll() is None, f"{text}\n{process.communicate()[0]}"
        os.kill(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, f"{text}\n{printed}"
