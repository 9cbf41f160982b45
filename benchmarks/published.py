"""Speeds that others publish for models of 7 to 8 billion weights, as they stand in the sources named."""

from dataclasses import dataclass

SOURCES = {
    "llm-foundry": "https://github.com/mosaicml/llm-foundry/blob/main/scripts/train/benchmarking/README.md",
    "fms-fsdp": "https://github.com/foundation-model-stack/fms-fsdp (README)",
    "torchtitan": "https://github.com/pytorch/torchtitan/blob/main/benchmarks/llama3_h100_202412_torchtitan.md",
    "Accelerate": "https://huggingface.co/blog/deepspeed-to-fsdp-and-back, table 3",
    "ColossalAI": "https://github.com/hpcaitech/ColossalAI/issues/4342 (64.101 rows/s on 8 GPUs, told by a user)",
    "torchtune": "https://github.com/pytorch/torchtune (README, 2024-09-25)",
}
LAYERS, WIDTH = 32, 4096  # of every model here


@dataclass(frozen=True, slots=True)
class Published:
    """One figure of others. Sizes are of the model that they trained."""

    what: str
    gpus: str
    weights: float
    """That every token is multiplied with: without the input embeddings, unless the head shares them."""
    length: int
    """Tokens in a row. Where the source does not say (torchtitan, Accelerate) it follows from what else it says."""
    rows: int
    """In a micro-batch on one GPU."""
    checkpointing: bool | None
    """None where the source does not say, or does it for some layers only."""
    trained: bool
    """False with adapters on a frozen base."""
    tokens_per_second: float
    """Of one GPU."""
    source: str
    """Key of ``SOURCES``."""

    def share_of_peak(self, peak: float) -> float:
        """Return what part of a GPU's peak the figure means, repeated passes included as far as they are known."""
        again = bool(self.checkpointing)
        matrices = (6 if self.trained else 4) + 2 * again
        attention = (12 + 4 * again) * LAYERS * WIDTH * self.length
        return self.tokens_per_second * (matrices * self.weights + attention) / peak


PUBLISHED = (
    Published("MPT-7B, FSDP", "8 x A100-80", 6_658_859_008, 2048, 6, False, True, 4641, "llm-foundry"),
    Published("MPT-7B, FSDP", "8 x A100-80", 6_654_664_704, 1024, 64, True, True, 4357, "llm-foundry"),
    Published("MPT-7B, FSDP", "128 x A100-40", 6_658_859_008, 2048, 18, True, True, 3623, "llm-foundry"),
    Published("MPT-7B, FSDP", "8 x H100-80", 6_658_859_008, 2048, 6, False, True, 10_643, "llm-foundry"),
    Published("MPT-7B, FSDP", "8 x H100-80", 6_654_664_704, 1024, 64, True, True, 10_203, "llm-foundry"),
    Published("Llama 2 7B, HSDP", "128 x A100-80", 6.61e9, 4096, 2, False, True, 3700, "fms-fsdp"),
    Published("Llama 2 7B, HSDP", "96 x H100-80", 6.61e9, 4096, 2, False, True, 7500, "fms-fsdp"),
    Published("Llama 3.1 8B, FSDP", "8 x H100-96", 7.50e9, 8192, 2, None, True, 5762, "torchtitan"),
    Published("Llama 3.1 8B, FSDP", "128 x H100-96", 7.50e9, 8192, 2, None, True, 5605, "torchtitan"),
    Published("Granite 7B, DeepSpeed ZeRO-3", "4 x A100", 6.61e9, 4096, 8, None, True, 3094.5, "Accelerate"),
    Published("Llama 7B, DeepSpeed ZeRO-3", "8 x A800-80", 6.61e9, 512, 8, None, True, 64.101 * 512 / 8, "ColossalAI"),
    Published("Llama 3.1 8B, LoRA", "1 x RTX 4090", 7.50e9, 2048, 2, None, False, 3083, "torchtune"),
    Published("Llama 3.1 8B, QLoRA", "1 x RTX 4090", 7.50e9, 2048, 2, None, False, 2413, "torchtune"),
)
