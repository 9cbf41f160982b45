"""Does any rank ever hold the whole model while ZeRO-3 loads it?

    python benchmarks/loading_memory.py

Two CPU ranks load a Llama-shaped model of 0.4 billion weights, fp32 in its folder, as bf16: once as training does,
partitioned while it loads, and once with every rank building it whole first. Printed is each rank's peak of anonymous
resident memory, less what stood before: mapped files, such as the checkpoint itself, do not count.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

NUM_RANKS = 2
SECONDS_BETWEEN_SAMPLES = 0.005
SIZES = {
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 20,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}


def anonymous_bytes() -> int:
    """Return this process's anonymous resident memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no RssAnon in /proc/self/status: this needs Linux")


class Peak:
    """Samples anonymous memory until it is asked for the most it saw."""

    def __init__(self) -> None:
        self._before = self._most = anonymous_bytes()
        self._running = True
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        while self._running:
            self._most = max(self._most, anonymous_bytes())
            time.sleep(SECONDS_BETWEEN_SAMPLES)

    def stop(self) -> int:
        """Return the peak in bytes above the beginning."""
        self._running = False
        self._thread.join()
        return self._most - self._before


def measure(folder: str, partitions_on_load: bool) -> dict[str, int]:
    """Build the engine on this rank; return the bytes of the whole model and this rank's peak."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    from pipeline.config import EngineConfig, LoraConfig, ModelConfig, OptimConfig
    from pipeline.engine import build_engine, init_distributed
    from pipeline.modeling import build_model

    disable_progress_bar()
    init_distributed()
    with torch.device("meta"):
        whole = 2 * AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).num_parameters()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    at_once = {}

    def make_model() -> AutoModelForCausalLM:
        peak = Peak()
        model = build_model(ModelConfig(folder), LoraConfig(), tokenizer, 64, 1, torch.bfloat16, seed=0)
        at_once["loading"] = peak.stop()
        return model

    build_engine(
        make_model,
        SIZES["hidden_size"],
        EngineConfig(deepspeed="ds_configs/zero3.json", precision="bf16"),
        OptimConfig(),
        seed=0,
        partitions_on_load=partitions_on_load,
    )
    return {"whole": whole, **at_once}


def make_checkpoint(folder: Path) -> None:
    """Write a model with random weights, in files of 200 MB, and the built-in tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from pipeline.word_tokenizer import build_word_tokenizer

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)).save_pretrained(folder, max_shard_size="200MB")
    build_word_tokenizer().save_pretrained(folder)


def run_ranks(folder: Path, mode: str) -> list[dict[str, int]]:
    """Measure in fresh processes."""
    common = {
        **os.environ,
        "WORLD_SIZE": str(NUM_RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29577",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        # Freed memory goes back at once, so that a peak is one of live memory.
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }
    command = [sys.executable, __file__, "--rank_of", str(folder), "--mode", mode]
    ranks = [
        subprocess.Popen(
            command, env={**common, "RANK": str(i), "LOCAL_RANK": str(i)}, stdout=subprocess.PIPE, text=True
        )
        for i in range(NUM_RANKS)
    ]
    return [json.loads(process.communicate()[0].splitlines()[-1]) for process in ranks]


def main() -> None:
    """Measure both ways and print a table, or one rank's figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank_of", help=argparse.SUPPRESS)
    parser.add_argument("--mode", choices=["partitioned", "whole"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_of:
        print(json.dumps(measure(options.rank_of, options.mode == "partitioned")))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(Path(folder))
        for mode in ("partitioned", "whole"):
            for rank, figures in enumerate(run_ranks(Path(folder), mode)):
                share = figures["loading"] / figures["whole"]
                print(
                    f"{mode:<12} rank {rank}: peak {figures['loading'] / 2**20:6.0f} MiB while loading "
                    f"= {share:.2f} of the model's {figures['whole'] / 2**20:.0f} MiB"
                )


if __name__ == "__main__":
    main()
