"""The GPU computes what the CPU does: losses, gradients, resets, verdicts; and takes the memory that the plan says.

`make test-gpu` runs these; elsewhere they are skipped.
"""

import gc
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.comparison import compare_models
from pipeline.config import load_config
from pipeline.engine import init_distributed
from pipeline.train import train
from tests.distributed import jobs
from tests.tiny import ROOT, shell_environment, tiny_config, write_recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that tests may use; see `make test-gpu`")

DS_CONFIGS = ["zero0", "zero1", "zero2", "zero3", "zero3_offload"]
CPU_ONLY = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LORA = {"rank": 32, "alpha": 64}
CUBLAS_WORKSPACE = 33 * 2**20  # on Hopper, which no plan counts


@pytest.fixture(scope="module")
def cpu_losses() -> list[float]:
    """Five losses of plain PyTorch on the CPU."""
    init_distributed()
    losses = jobs.plain_losses(jobs.OPTIM)
    assert losses[-1] < losses[0]
    return losses


@pytest.mark.parametrize("ds_config", DS_CONFIGS)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-2)])
def test_losses_are_those_of_the_cpu(cpu_losses: list[float], ds_config: str, precision: str, tolerance: float) -> None:
    assert jobs.losses(ds_config, precision, 1000) == pytest.approx(cpu_losses, rel=tolerance)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("ds_config", DS_CONFIGS)
def test_reset_is_a_fresh_optimizer_on_the_same_weights(ds_config: str, precision: str) -> None:
    init_distributed()
    result = jobs.reset(ds_config, precision)
    assert result["moments_before"] > 0
    assert result["zeroed"] and result["unchanged"]
    assert set(result["steps"]) == {0.0}
    assert result["dtypes"] == {"torch.float32"}
    assert result["difference_from_fresh"] < 1e-6


@pytest.mark.parametrize("ds_config", DS_CONFIGS)
def test_weights_that_generate_are_the_weights_saved(ds_config: str) -> None:
    init_distributed()
    assert jobs.gathered_equals_exported(ds_config)


def test_a_run_on_the_gpu_is_the_run_on_the_cpu(tmp_path: Path) -> None:
    rows = {}
    for name, variables in {"gpu": {}, "cpu": CPU_ONLY}.items():
        (tmp_path / name).mkdir()
        _tacit("train", "--config", str(write_recipe(tmp_path / name)), "--quiet", **variables)
        rows[name] = _metrics(tmp_path / name / "run")
    assert _device(tmp_path / "gpu" / "run") != _device(tmp_path / "cpu" / "run") == "cpu"
    for field in ("step", "num_removed", "lr"):
        assert [row[field] for row in rows["gpu"]] == [row[field] for row in rows["cpu"]]
    for field in ("loss", "grad_norm"):
        assert [row[field] for row in rows["gpu"]] == pytest.approx([row[field] for row in rows["cpu"]], rel=2e-3)


@pytest.mark.parametrize("ds_config", ["zero0", "zero3", "zero3_offload"])
def test_a_resumed_run_goes_on_as_the_uninterrupted_one(tmp_path: Path, ds_config: str) -> None:
    config = tiny_config(
        tmp_path,
        engine__deepspeed=f"ds_configs/{ds_config}.json",
        engine__precision="bf16",
        run__checkpoint_every=1,
        run__keep_checkpoints=100,
    )
    whole, resumed = jobs.run_cut_and_resume(config, 9)  # 9 is one step after a reset
    losses = [[row["loss"] for row in rows if row["kind"] == "train"] for rows in (whole, resumed)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)  # sums on a GPU are not taken in a fixed order
    assert losses[1][:9] == losses[0][:9]


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"lora": LORA},
        {"lora": LORA, "model__quantization": "nf4", "optim__optimizer": "paged_adamw_8bit"},
        {"lora": LORA, "model__quantization": "int8"},
        {"model__gradient_checkpointing": True},
        {"model__attention": "eager"},
    ],
    ids=["full", "lora", "nf4", "int8", "checkpointing", "eager"],
)
def test_a_llama_learns_in_bf16_and_the_plan_knows_its_memory(tmp_path: Path, overrides: dict[str, Any]) -> None:
    train(tiny_config(tmp_path, model__from_scratch=LLAMA, schedule__kind="explicit_cot", schedule__max_steps=1))
    recipe = write_recipe(
        tmp_path,
        model__name_or_path=str(tmp_path / "run" / "model"),
        model__from_scratch=None,
        run__output_dir=str(tmp_path / "adapted"),
        engine__precision="bf16",
        engine__micro_batch_tokens=4096,
        optim__lr=5e-4,
        optim__global_batch_size=56,
        schedule__hold_epochs=8,
        evaluation__every_stages=100,
        **overrides,
    )
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    train(load_config(recipe))
    measured = torch.cuda.max_memory_allocated() - held
    rows = _metrics(tmp_path / "adapted")
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.05
    planned = json.loads(_tacit("plan", "--config", str(recipe), "--json"))["peak_bytes"]
    print(f"{overrides}: measured {measured / 2**20:.1f} MiB, planned {planned / 2**20:.1f} MiB")
    assert planned == pytest.approx(measured, rel=0.15, abs=CUBLAS_WORKSPACE)


def test_verification_gives_the_verdicts_of_plain_decoding(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, schedule__kind="explicit_cot", schedule__max_steps=60, optim__lr=1e-2)
    train(config)
    data = replace(config.data, validation=config.data.train)
    settings = {"num_removed": None, "num_examples": 56, "num_timed": 1, "batch_size": 8}
    texts = []
    for verify in (True, False):
        report = compare_models([tmp_path / "run" / "model"], data, verify=verify, **settings)[0]
        texts.append([sample.text for sample in report.evaluation.samples])
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 5


def test_doctor_finds_the_gpu_and_no_fault() -> None:
    found = json.loads(_tacit("doctor", "--json", may_find_faults=True))
    gpu = [finding for finding in found["checks"] if finding["check"] == "GPU 0"]
    assert [finding["state"] for finding in gpu] == ["ok"]
    assert torch.cuda.get_device_name() in gpu[0]["found"]


def _tacit(*arguments: str, may_find_faults: bool = False, **variables: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        env=shell_environment(**variables),
        capture_output=True,
        text=True,
    )
    assert run.returncode in (0, *([1] if may_find_faults else [])), run.stderr[-3000:]
    return run.stdout


def _metrics(run_dir: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "train"]


def _device(run_dir: Path) -> str:
    return json.loads((run_dir / "environment.json").read_text())["device"]
