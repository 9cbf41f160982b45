"""Holds the memory model of `tacit plan` against measured peaks of real training steps on CPU ranks.

    python -m benchmarks.memory_model            # every configuration
    python -m benchmarks.memory_model NAME ...   # some

Each configuration trains for a few steps in fresh processes, one a rank, through the engine that training uses. A
thread reads RssAnon from /proc/self/status every 2 ms; its peak less what stood before the model was built is what is
compared. The allocator is told to hand freed memory back at once (MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_).
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 2**20
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
NUM_STEPS = 3  # the first without moments, the second without ZeRO-3's plan of which weights to keep, the third as all

GPT2_124M = {"model_type": "gpt2", "vocab_size": 50257, **NO_DROPOUT}
GPT2_NARROW = {"model_type": "gpt2", "vocab_size": 50257, "n_embd": 512, "n_layer": 4, "n_head": 8, **NO_DROPOUT}
GPT2_DEEP = {"model_type": "gpt2", "vocab_size": 8000, "n_embd": 768, "n_layer": 12, "n_head": 12, **NO_DROPOUT}
LLAMA_180M = {
    "model_type": "llama",
    "vocab_size": 16000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
}


@dataclass(frozen=True)
class Case:
    """One configuration."""

    model: dict[str, Any]
    zero: int
    precision: str
    num_ranks: int = 1
    rows: int = 2
    """In each micro-batch, all alike."""
    length: int = 64
    labels: int = 16
    """Of each row."""
    micro_batches: int = 2
    """In a step, on each rank."""
    lora_rank: int | None = None
    quantization: str = "none"
    gradient_checkpointing: bool = False
    live_weights: int | None = None
    """stage3_max_live_parameters and stage3_max_reuse_distance; both are 1e9 else, more than these models have."""
    pretrained: bool = False
    """Whether the model is loaded from a folder, as a quantised one always is."""
    held_out: bool = False
    """Never looked at while the memory model was made or corrected."""


CASES = {
    "full-fp32-zero0": Case(GPT2_124M, 0, "fp32"),
    "full-bf16-zero2": Case(LLAMA_180M, 2, "bf16", num_ranks=2),
    "full-bf16-zero3": Case(LLAMA_180M, 3, "bf16", num_ranks=2),
    "lora-bf16-zero0": Case(LLAMA_180M, 0, "bf16", lora_rank=16, rows=4, length=128),
    "lora-bf16-zero2": Case(LLAMA_180M, 2, "bf16", num_ranks=2, lora_rank=16, rows=4, length=128),
    "checkpointing": Case(GPT2_DEEP, 0, "fp32", rows=32, length=128, labels=8, gradient_checkpointing=True),
    "activations": Case(GPT2_DEEP, 0, "fp32", rows=16, length=128, labels=8, micro_batches=1),
    "logits": Case(GPT2_NARROW, 0, "fp32", rows=16, length=96, labels=80),
    "lora-bf16-zero3-few-live": Case(
        LLAMA_180M,
        3,
        "bf16",
        num_ranks=2,
        lora_rank=16,
        rows=4,
        length=128,
        live_weights=60_000_000,
        pretrained=True,
    ),
    "nf4-lora": Case(LLAMA_180M, 2, "bf16", lora_rank=16, quantization="nf4", rows=4, length=128),
    "full-bf16-zero1": Case(GPT2_124M, 1, "bf16", num_ranks=2, held_out=True),
    "lora-bf16-zero3": Case(LLAMA_180M, 3, "bf16", num_ranks=2, lora_rank=32, rows=4, length=128, held_out=True),
    "bf16-zero0-checkpointing": Case(
        LLAMA_180M, 0, "bf16", rows=24, length=96, labels=32, gradient_checkpointing=True, held_out=True
    ),
    "fp32-zero3-activations": Case(GPT2_DEEP, 3, "fp32", num_ranks=2, rows=12, length=128, held_out=True),
    "lora-bf16-zero3-few-live-checkpointing": Case(
        LLAMA_180M,
        3,
        "bf16",
        num_ranks=2,
        lora_rank=8,
        rows=16,
        length=96,
        gradient_checkpointing=True,
        live_weights=30_000_000,
        pretrained=True,
        held_out=True,
    ),
    "int8-lora-activations": Case(
        LLAMA_180M, 0, "bf16", lora_rank=8, quantization="int8", rows=12, length=128, held_out=True
    ),
}


@dataclass
class Sampler:
    """Reads this process's anonymous memory again and again."""

    peak: int = 0
    """Bytes at the worst moment."""
    _ends: bool = False

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._ends = True
        self._thread.join()

    def _run(self) -> None:
        while not self._ends:
            self.peak = max(self.peak, anonymous_bytes())
            time.sleep(0.002)


def anonymous_bytes() -> int:
    """Return RssAnon: memory that is no file's."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))


def main() -> None:
    """Measure, predict, and print a table; or be one rank of a measurement."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}; all if none is given")
    parser.add_argument("--rank-of", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_of:
        print(json.dumps(run_rank(CASES[options.rank_of], options.folder)))
        return
    print("| configuration | ranks | measured MiB | predicted MiB | error | worst phase predicted |")
    print("|---|---|---|---|---|---|")
    for name in options.names or CASES:
        print(report(name), flush=True)


def report(name: str) -> str:
    """Return one line of the table."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        phases = {phase: memory.total for phase, memory in predict(case, Path(folder)).items()}
        measured = max(rank["peak"] - rank["before"] for rank in measure(name, Path(folder)))
    worst = max(phases, key=lambda phase: phases[phase])
    error = phases[worst] / measured - 1
    held_out = " (held out)" if case.held_out else ""
    return (
        f"| {name}{held_out} | {case.num_ranks} | {measured / MIB:.0f} | {phases[worst] / MIB:.0f} | "
        f"{100 * error:+.1f} % | {worst} |"
    )


def measure(name: str, folder: Path) -> list[dict[str, int]]:
    """Run a configuration in fresh processes, with its files in ``folder``; returns what each rank saw."""
    case = CASES[name]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    if is_loaded(case):
        save_model(case, folder)
    command = [sys.executable, "-m", "benchmarks.memory_model", "--rank-of", name, "--folder", str(folder)]
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(case.num_ranks)}
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, **ALLOCATOR, **places, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(case.num_ranks)
    ]
    results = []
    for rank in ranks:
        output, errors = rank.communicate(timeout=600)
        if rank.returncode:
            sys.exit(f"{name}: a rank failed\n{errors}")
        results.append(json.loads(output.splitlines()[-1]))
    return results


def engine_settings(case: Case, folder: Path) -> Any:
    """Return the recipe's engine section for a configuration."""
    from pipeline.config import EngineConfig

    path = Path("ds_configs") / f"zero{case.zero}.json"
    if case.live_weights is not None:
        changed = json.loads(path.read_text())
        changed["zero_optimization"]["stage3_max_live_parameters"] = case.live_weights
        changed["zero_optimization"]["stage3_max_reuse_distance"] = case.live_weights
        path = folder / "deepspeed.json"
        path.write_text(json.dumps(changed))
    return EngineConfig(deepspeed=str(path), precision=case.precision)


def model_settings(case: Case, folder: Path) -> Any:
    """Return the recipe's model section for a configuration."""
    from pipeline.config import ModelConfig

    common = {"gradient_checkpointing": case.gradient_checkpointing, "attention": "sdpa"}
    if is_loaded(case):
        return ModelConfig(name_or_path=str(folder), quantization=case.quantization, **common)
    return ModelConfig(from_scratch=case.model, tokenizer="words", **common)


def is_loaded(case: Case) -> bool:
    """Return whether a configuration begins with weights from a folder."""
    return case.pretrained or case.quantization != "none"


def save_model(case: Case, folder: Path) -> None:
    """Write a model with random weights, which a configuration is loaded from.

    In fp32: weights that are loaded in the type of the file stay pages of that file on a CPU, which RssAnon leaves out.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**case.model)).save_pretrained(folder)


def run_rank(case: Case, folder: Path) -> dict[str, int]:
    """Train for some steps as one rank; returns the peak of its memory, and what stood before."""
    import numpy as np
    import torch

    from pipeline.batching import StepBatch, collate
    from pipeline.config import LoraConfig, OptimConfig
    from pipeline.engine import build_engine, init_distributed
    from pipeline.layout import Row, SequenceLayout
    from pipeline.modeling import build_model, build_model_config
    from pipeline.word_tokenizer import build_word_tokenizer

    init_distributed()
    torch.set_num_threads(1)
    settings, lora, tokenizer = model_settings(case, folder), LoraConfig(rank=case.lora_rank), build_word_tokenizer()
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    hidden_size = build_model_config(settings, tokenizer).hidden_size
    row = Row(np.arange(case.length) % 7, np.arange(case.length), case.length - case.labels)
    micro_batch = collate([row] * case.rows, SequenceLayout((0,), (0,), 0, 0))
    num_rows = case.rows * case.micro_batches * case.num_ranks

    sampler, before = Sampler(), anonymous_bytes()
    sampler.start()
    engine = build_engine(
        lambda: build_model(settings, lora, tokenizer, case.length, 0, dtype, seed=0),
        hidden_size,
        engine_settings(case, folder),
        OptimConfig(),
        seed=0,
        partitions_on_load=settings.from_scratch is None,
    )
    for step in range(NUM_STEPS):
        batch = StepBatch(
            step,
            [micro_batch] * case.micro_batches,
            num_label_tokens=num_rows * case.labels,
            row_numbers=tuple(range(num_rows)),
            num_tokens=num_rows * case.length,
            sum_of_squares=num_rows * case.length**2,
        )
        engine.train_step(batch, 1e-5)
    sampler.stop()
    return {"before": before, "peak": sampler.peak}


def predict(case: Case, folder: Path) -> dict[str, Any]:
    """Return what the memory model says of each phase."""
    import torch
    from transformers import AutoConfig

    from pipeline.config import LoraConfig, OptimConfig
    from pipeline.loss import CPU_CHUNK
    from pipeline.modeling.fake_model import build_fake_model
    from pipeline.plan.memory import Placement, memory_by_phase
    from pipeline.plan.trace import trace_micro_batch
    from pipeline.plan.zero import zero_settings

    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    settings, lora = model_settings(case, folder), LoraConfig(rank=case.lora_rank)
    model = build_fake_model(AutoConfig.for_model(**case.model), settings, lora, dtype)
    place = Placement(
        zero_settings(engine_settings(case, folder), OptimConfig(), model.size.hidden_size),
        case.num_ranks,
        element_bytes=dtype.itemsize,
        optimizer="adamw",
        num_micro_batches=case.micro_batches,
        gradient_checkpointing=case.gradient_checkpointing,
        on_cpu=True,
    )
    trace = trace_micro_batch(model, case.rows, case.length, case.labels, CPU_CHUNK)
    return memory_by_phase(model.size, trace, None, place)


if __name__ == "__main__":
    main()
