"""How long an optimizer step of full ZeRO-3 training, or of adapters on one GPU, must at least take. Pure arithmetic.

A step is as slow as the slowest of three that can go on at the same time: multiplying (at an assumed share of the
peak), moving weights between memory and processor, moving weights and gradients between GPUs. Then comes the optimizer.
What a real run spends on top, such as Python, kernel launches and ranks that wait for each other, is not in it.
"""

import math
from dataclasses import dataclass

from pipeline.flops import training_flops
from pipeline.model_size import ModelSize
from pipeline.modeling.fake_model import STORED_BYTES

BF16_BYTES = 2
# Per trained weight in AdamW's turn: the gradient is read, made fp32 and measured (10), read with masters and two
# moments (16), these three written back (12) and the bf16 weight (2).
OPTIMIZER_BYTES = 40
# Seconds of a ring: to begin, for a hop inside a node over NVLink, for a hop between nodes.
# Source: NCCL, src/graph/tuning.cc (01afd20), baseLat and hwLat, ring with the protocol for large messages.
RING_BEGIN, RING_HOP_NVLINK, RING_HOP_NETWORK = 8.4e-6, 3.4e-6, 9.6e-6


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU."""

    name: str
    peak: float
    """Dense bf16 operations a second, as its maker states them."""
    reached: float
    """Share of the peak that training is assumed to reach while it multiplies, repeated passes included."""
    memory_bandwidth: float
    """Bytes a second, as its maker states them."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Nodes of like GPUs."""

    gpu: Gpu
    num_nodes: int
    gpus_per_node: int
    nvlink: float
    """Bytes a second that each GPU's collectives reach inside a node (bus bandwidth in NCCL's tests)."""
    network: float
    """Bytes a second that a node reaches towards the others, all its network cards together."""

    @property
    def num_gpus(self) -> int:
        """Of all nodes."""
        return self.num_nodes * self.gpus_per_node

    def collective_seconds(self, num_bytes: float, num_collectives: int) -> float:
        """Return the time of all-gathers or reduce-scatters that move so many bytes in all, one after the other.

        In a ring everything but a GPU's own part passes through every link once, so the slowest link counts: NVLink,
        or a node's network cards together.
        """
        bandwidth = self.nvlink if self.num_nodes == 1 else min(self.nvlink, self.network)
        between_nodes = self.num_nodes - 1
        hops = (self.num_gpus - 1 - between_nodes) * RING_HOP_NVLINK + between_nodes * RING_HOP_NETWORK
        share = (self.num_gpus - 1) / self.num_gpus
        return num_bytes * share / bandwidth + num_collectives * (RING_BEGIN + hops)


@dataclass(frozen=True, slots=True)
class Rows:
    """Training rows, all alike."""

    tokens: int
    labels: int
    """Tokens that carry loss."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one step."""

    compute: float
    memory: float
    links: float
    optimizer: float

    @property
    def overlapped(self) -> float:
        """If compute, memory and links hide behind each other."""
        return max(self.compute, self.memory, self.links) + self.optimizer

    @property
    def apart(self) -> float:
        """If nothing is computed while links work."""
        return max(self.compute, self.memory) + self.links + self.optimizer

    @property
    def bound(self) -> str:
        """What the step waits for."""
        return max(("compute", "memory", "links"), key=lambda name: getattr(self, name))


def num_matrices(size: ModelSize) -> int:
    """Return the weights that ZeRO-3 gathers one by one: those above its persistence threshold of 10 x hidden size."""
    return sum(number > 10 * size.hidden_size for number in size.parameter_sizes)


def flops(size: ModelSize, rows: Rows, num_rows: float, checkpointing: bool) -> float:
    """Return the operations of forward and backward passes over so many rows."""
    return training_flops(
        size, num_rows * rows.tokens, num_rows * rows.labels, num_rows * rows.tokens**2, checkpointing
    )


def zero3_step(size: ModelSize, rows: Rows, num_rows: int, cluster: Cluster, checkpointing: bool) -> StepTime:
    """Return the time of a step of full finetuning, with one micro-batch on each GPU.

    Weights are gathered for the forward and for the backward pass (for a repeated forward pass they are there already),
    gradients reduced and scattered, all in bf16 and matrix by matrix. The GPU with most rows decides; one without a row
    takes part in the exchange all the same.

    Args:
        size: Of the model.
        rows: What is trained on.
        num_rows: In the global batch.
        cluster: Where.
        checkpointing: Whether the forward pass is done twice.
    """
    gpu, weights = cluster.gpu, size.num_weights * BF16_BYTES
    busiest = math.ceil(num_rows / cluster.num_gpus)
    passes = 2 + checkpointing
    moved = (
        2 + passes + 2
    ) * weights  # gathered weights written twice and read in each pass; gradients written and read
    return StepTime(
        compute=flops(size, rows, busiest, checkpointing) / (gpu.peak * gpu.reached),
        memory=moved / gpu.memory_bandwidth,
        links=cluster.collective_seconds(3 * weights, 3 * num_matrices(size)),
        optimizer=OPTIMIZER_BYTES * size.num_trained / cluster.num_gpus / gpu.memory_bandwidth,
    )


def adapter_step(
    size: ModelSize, rows: Rows, num_rows: int, num_micro_batches: int, gpu: Gpu, quantized: bool
) -> StepTime:
    """Return the time of a step of adapters on a frozen base, on one GPU with gradient checkpointing.

    Args:
        size: Of the model with its adapters.
        rows: What is trained on.
        num_rows: In the batch.
        num_micro_batches: That the batch is cut into; each reads all weights three times.
        gpu: The GPU.
        quantized: Whether the base is NF4, which is unpacked to bf16 in memory before every use.
    """
    reads = 3 * num_micro_batches * size.num_weights
    unpacking = reads * (STORED_BYTES["nf4"] + BF16_BYTES) / gpu.memory_bandwidth if quantized else 0.0
    return StepTime(
        compute=flops(size, rows, num_rows, checkpointing=True) / (gpu.peak * gpu.reached) + unpacking,
        memory=reads * BF16_BYTES / gpu.memory_bandwidth + unpacking,
        links=0.0,
        optimizer=OPTIMIZER_BYTES * size.num_trained / gpu.memory_bandwidth,
    )


def balanced_rows(size: ModelSize, rows: Rows, cluster: Cluster, checkpointing: bool) -> int:
    """Return the rows on each GPU, in one micro-batch, from which on the links no longer decide."""
    links = zero3_step(size, rows, cluster.num_gpus, cluster, checkpointing).links
    one_row = flops(size, rows, 1, checkpointing) / (cluster.gpu.peak * cluster.gpu.reached)
    return math.ceil(links / one_row)
