"""Expected tokens a second on GPUs that were not at hand: the tables of docs/scaling.md. Computed, not measured.

python -m benchmarks.roofline
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig

from benchmarks.published import PUBLISHED, SOURCES
from benchmarks.step_time import Cluster, Gpu, Rows, StepTime, adapter_step, balanced_rows, zero3_step
from pipeline.config import LoraConfig, ModelConfig
from pipeline.model_size import ModelSize
from pipeline.modeling.fake_model import build_fake_model

MISTRAL = Path(__file__).parents[1] / "recipes" / "architectures" / "mistral-7b"

# Peaks and bandwidths are their maker's, dense; what training reaches of the peak is our assumption, see PUBLISHED.
A100 = Gpu("A100-80", 312e12, 0.45, 2.039e12)
H100 = Gpu("H100-80", 989e12, 0.35, 3.35e12)
RTX_4090 = Gpu("RTX 4090", 165.2e12, 0.50, 1.008e12)
GPUS = (A100, H100, RTX_4090)

# What collectives over NVLink reach in NCCL's tests: NVIDIA/nccl-tests issues 149 and 326.
NVLINK = {A100: 200e9, H100: 360e9}
NETWORK_REACHED = 0.8  # of what a node's cards can carry; our assumption
INFINIBAND = {A100: 8 * 25e9, H100: 8 * 50e9}  # eight cards a node, of 200 and 400 Gb/s
ETHERNET = 12.5e9  # one card of 100 Gb/s

# Mean GSM8K row in Mistral's tokens (docs/paper-recipes.md), with the whole CoT and without.
FULL_COT, NO_COT = Rows(tokens=108, labels=45), Rows(tokens=73, labels=10)
PAPER_ROWS = 32
# As in the recipes for one card of 24 GB: rank of the adapters, and how many micro-batches the paper's batch takes. One
# holds 2,048 tokens on a bf16 base, all rows on NF4.
ADAPTERS = (("LoRA, bf16", 32, 2, False), ("QLoRA, NF4", 64, 1, True))


@dataclass(frozen=True, slots=True)
class Site:
    """A cluster and how its nodes are linked."""

    name: str
    cluster: Cluster


def site(gpu: Gpu, num_nodes: int, network: float, name: str) -> Site:
    """Return nodes of eight GPUs on a network, given as the bytes a second that a node's cards can carry."""
    cluster = Cluster(gpu, num_nodes, 8, NVLINK[gpu], NETWORK_REACHED * network)
    return Site(f"{num_nodes} x 8 {gpu.name}{name}", cluster)


SITES = (
    *(site(gpu, nodes, INFINIBAND[gpu], ", InfiniBand" * (nodes > 1)) for nodes in (1, 2, 16) for gpu in (A100, H100)),
    *(site(gpu, 2, ETHERNET, ", Ethernet 100 Gb/s") for gpu in (A100, H100)),
)


def main() -> None:
    """Print the tables as they stand on the page."""
    print("\n\n".join(tables()))


def tables() -> list[str]:
    """Return every table of the page, and its list of sources, as Markdown."""
    full = mistral()
    return [
        paper_batch_table(full, FULL_COT),
        paper_batch_table(full, NO_COT),
        balance_table(full),
        adapter_table(),
        published_table(),
        "\n".join(f"- {name}: {address}" for name, address in SOURCES.items()),
    ]


def mistral(lora_rank: int | None = None, quantized: bool = False) -> ModelSize:
    """Return the size of Mistral 7B, with adapters on all linear layers if they have a rank; no weights are made."""
    settings = ModelConfig(quantization="nf4" if quantized else "none")
    config = AutoConfig.from_pretrained(MISTRAL)
    return build_fake_model(config, settings, LoraConfig(rank=lora_rank), torch.bfloat16).size


def paper_batch_table(size: ModelSize, rows: Rows) -> str:
    """Return what the paper's batch comes to on every site, every weight trained under ZeRO-3."""
    columns = ("GPUs", "busiest GPU", "compute", "memory", "links", "AdamW", "bound", "tokens/s", "rows/s")
    lines = []
    for place in SITES:
        time = zero3_step(size, rows, PAPER_ROWS, place.cluster, checkpointing=True)
        busiest = -(-PAPER_ROWS // place.cluster.num_gpus)
        lines.append(
            (place.name, f"{busiest} row{'s' * (busiest > 1)}", *_seconds(time), *_speeds(time, rows, PAPER_ROWS))
        )
    return _markdown(columns, lines)


def balance_table(size: ModelSize) -> str:
    """Return the batch from which on compute decides, and four times that."""
    columns = (
        "GPUs",
        "rows a GPU",
        "tokens a GPU",
        "global batch",
        "bound",
        "tokens/s",
        "rows/s",
        "per GPU",
        "4 x the batch",
    )
    lines = []
    for place in SITES:
        cluster = place.cluster
        balanced = balanced_rows(size, FULL_COT, cluster, checkpointing=True)
        time, larger = (
            zero3_step(size, FULL_COT, factor * balanced * cluster.num_gpus, cluster, checkpointing=True)
            for factor in (1, 4)
        )
        rows = balanced * cluster.num_gpus
        per_gpu = balanced * FULL_COT.tokens / time.overlapped
        lines.append(
            (
                place.name,
                f"{balanced:,}",
                f"{balanced * FULL_COT.tokens:,}",
                f"{rows:,}",
                *_speeds(time, FULL_COT, rows),
                f"{per_gpu:,.0f}",
                _span(larger, 4 * rows * FULL_COT.tokens),
            )
        )
    return _markdown(columns, lines)


def adapter_table() -> str:
    """Return what adapters come to on one RTX 4090, with the paper's batch."""
    columns = ("one RTX 4090", "rows", "compute", "memory", "links", "AdamW", "bound", "tokens/s", "rows/s")
    lines = []
    for name, rank, num_micro_batches, quantized in ADAPTERS:
        size = mistral(rank, quantized)
        for what, rows in (("with CoT", FULL_COT), ("without", NO_COT)):
            time = adapter_step(size, rows, PAPER_ROWS, num_micro_batches, RTX_4090, quantized)
            lines.append((name, what, *_seconds(time), *_speeds(time, rows, PAPER_ROWS)))
    return _markdown(columns, lines)


def published_table() -> str:
    """Return others' figures, and what part of the peak they mean."""
    columns = ("trained", "GPUs", "tokens a micro-batch", "tokens/s a GPU", "share of peak", "we assume", "source")
    peaks = {"A100": A100, "A800": A100, "H100": H100, "4090": RTX_4090}
    lines = []
    for figure in PUBLISHED:
        gpu = next(gpu for name, gpu in peaks.items() if name in figure.gpus)
        at_least = "" if figure.checkpointing is not None else ">= "
        lines.append(
            (
                figure.what + ", recomputing" * bool(figure.checkpointing),
                figure.gpus,
                f"{figure.rows} x {figure.length:,}",
                f"{figure.tokens_per_second:,.0f}",
                f"{at_least}{figure.share_of_peak(gpu.peak):.0%}",
                f"{gpu.reached:.0%}",
                figure.source,
            )
        )
    return _markdown(columns, lines)


def _seconds(time: StepTime) -> tuple[str, ...]:
    parts = (time.compute, time.memory, time.links, time.optimizer)
    return tuple(f"{1000 * part:,.0f} ms" if part else "-" for part in parts)


def _speeds(time: StepTime, rows: Rows, num_rows: int) -> tuple[str, str, str]:
    return time.bound, _span(time, num_rows * rows.tokens), _span(time, num_rows)


def _span(time: StepTime, amount: float) -> str:
    """Return an amount per second: if nothing overlaps, and if everything does."""
    low, high = (f"{amount / seconds:,.0f}" for seconds in (time.apart, time.overlapped))
    return high if low == high else f"{low} - {high}"


def _markdown(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
