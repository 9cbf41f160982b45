"""The arithmetic behind docs/scaling.md, in numbers small enough to check by hand, and the page against the command."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.published import PUBLISHED, SOURCES
from benchmarks.roofline import A100, FULL_COT, H100, mistral, tables
from benchmarks.scaling import step_bytes
from benchmarks.step_time import (
    BF16_BYTES,
    Cluster,
    Gpu,
    Rows,
    StepTime,
    adapter_step,
    balanced_rows,
    num_matrices,
    zero3_step,
)
from pipeline.model_size import ModelSize

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
# 1,000 operations a second, of which half are reached; 400 bytes a second.
GPU = Gpu("toy", peak=1000.0, reached=0.5, memory_bandwidth=400.0)
SIZE = ModelSize(
    num_weights=100,
    num_trained=100,
    weight_bytes=200,
    parameter_sizes=(60, 39, 1),
    largest_trained=60,
    largest_dequantized=0,
    matrix_trained=60,
    matrix_frozen=0,
    head_weights=20,
    head_trained=True,
    num_layers=1,
    attention_width=2,
    hidden_size=1,
    vocabulary_size=20,
)
ROWS = Rows(tokens=5, labels=2)
# Of one row: 60 weights x 6 x 5 tokens, attention 12 x 1 x 2 x 5 x 5, head 20 x 6 x 2.
ROW_FLOPS = 1800 + 600 + 240
# With the layers' forward pass done twice: 2 x 60 x 5 and a third of attention more.
ROW_FLOPS_TWICE = ROW_FLOPS + 600 + 200


def cluster(num_nodes: int, gpus_per_node: int, nvlink: float = 50.0, network: float = 10.0) -> Cluster:
    return Cluster(GPU, num_nodes, gpus_per_node, nvlink, network)


def without_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RING_BEGIN", "RING_HOP_NVLINK", "RING_HOP_NETWORK"):
        monkeypatch.setattr(f"benchmarks.step_time.{name}", 0.0)


def test_a_ring_passes_all_but_the_own_part_over_the_slowest_link(monkeypatch: pytest.MonkeyPatch) -> None:
    without_latency(monkeypatch)
    assert cluster(1, 4).collective_seconds(400.0, 7) == pytest.approx(400 * 3 / 4 / 50)
    assert cluster(2, 4).collective_seconds(400.0, 7) == pytest.approx(400 * 7 / 8 / 10)
    assert cluster(2, 4, network=1e9).collective_seconds(400.0, 7) == pytest.approx(400 * 7 / 8 / 50)
    assert cluster(1, 1).collective_seconds(400.0, 7) == 0


def test_a_ring_takes_a_hop_for_every_other_rank() -> None:
    # One node of 8: 7 hops. 16 of 8: 127, of which 15 between nodes. In microseconds, by NCCL's own table.
    assert cluster(1, 8).collective_seconds(0.0, 1) == pytest.approx((8.4 + 7 * 3.4) * 1e-6)
    assert cluster(16, 8).collective_seconds(0.0, 10) == pytest.approx(10 * (8.4 + 112 * 3.4 + 15 * 9.6) * 1e-6)


def test_a_zero3_step_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    without_latency(monkeypatch)
    time = zero3_step(SIZE, ROWS, 6, cluster(1, 4), checkpointing=False)
    assert time.compute == pytest.approx(2 * ROW_FLOPS / 500)  # 6 rows on 4 GPUs: one has two
    assert time.memory == pytest.approx(6 * 200 / 400)  # two gathers written, two passes, a gradient written and read
    assert time.links == pytest.approx(3 * 200 * 3 / 4 / 50)  # weights twice, gradients once
    assert time.optimizer == pytest.approx(40 * 25 / 400)
    twice = zero3_step(SIZE, ROWS, 6, cluster(1, 4), checkpointing=True)
    assert twice.compute == pytest.approx(2 * ROW_FLOPS_TWICE / 500)
    assert (twice.memory, twice.links) == (pytest.approx(7 * 200 / 400), time.links)


def test_more_gpus_than_rows_help_nobody() -> None:
    alone, crowd = (zero3_step(SIZE, ROWS, 4, cluster(nodes, 4), checkpointing=False) for nodes in (1, 8))
    assert alone.compute == crowd.compute
    assert crowd.links > alone.links


def test_zero3_gathers_what_is_larger_than_its_threshold() -> None:
    assert num_matrices(SIZE) == 2  # of 60, 39 and 1 weights those above 10 x 1


@pytest.mark.parametrize(
    ("time", "overlapped", "apart", "bound"),
    [
        (StepTime(5.0, 1.0, 3.0, 0.5), 5.5, 8.5, "compute"),
        (StepTime(1.0, 2.0, 3.0, 0.5), 3.5, 5.5, "links"),
        (StepTime(1.0, 4.0, 3.0, 0.0), 4.0, 7.0, "memory"),
    ],
)
def test_what_overlaps_and_what_decides(time: StepTime, overlapped: float, apart: float, bound: str) -> None:
    assert (time.overlapped, time.apart, time.bound) == (overlapped, apart, bound)


def test_balance_is_where_links_stop_deciding() -> None:
    place = cluster(2, 4, nvlink=5.0, network=1.0)
    rows = balanced_rows(SIZE, ROWS, place, checkpointing=True)
    assert rows > 1
    at, below = (zero3_step(SIZE, ROWS, n * place.num_gpus, place, checkpointing=True) for n in (rows, rows - 1))
    assert (at.bound, below.bound) == ("compute", "links")


def test_adapters_on_one_gpu_by_hand() -> None:
    size = replace(SIZE, num_trained=10, matrix_trained=10, matrix_frozen=50, head_trained=False)
    # Each row: 50 frozen weights x 6 (forward twice, back), 10 trained x 8, attention 16 x 2 x 25, head 20 x 4 x 2.
    flops = 50 * 6 * 5 + 10 * 8 * 5 + 800 + 160
    time = adapter_step(size, ROWS, 4, 2, GPU, quantized=False)
    assert time.compute == pytest.approx(4 * flops / 500)
    assert time.memory == pytest.approx(2 * 3 * 200 / 400)  # two micro-batches, three passes, 100 weights of two bytes
    assert (time.links, time.optimizer) == (0, pytest.approx(40 * 10 / 400))
    unpacking = 2 * 3 * 100 * (0.516 + 2) / 400  # 4.13 bits read, two bytes written
    quantized = adapter_step(size, ROWS, 4, 2, GPU, quantized=True)
    assert quantized.compute - time.compute == pytest.approx(unpacking, rel=1e-3)
    assert quantized.memory - time.memory == pytest.approx(unpacking, rel=1e-3)


def test_mistral_is_counted_right() -> None:
    size = mistral()
    assert size.num_weights == 7_241_732_096
    assert num_matrices(size) == 32 * 7 + 2  # q, k, v, o, gate, up, down; embeddings and head
    # 8 x 6.98e9 a token, head and attention on top: 4 rows of 108 tokens come to 24.5e12 operations.
    place = Cluster(A100, 1, 8, 200e9, 0.0)
    time = zero3_step(size, FULL_COT, 32, place, checkpointing=True)
    assert time.compute == pytest.approx(24.5e12 / (0.45 * 312e12), rel=0.01)
    assert time.links == pytest.approx(3 * BF16_BYTES * 7.24e9 * 7 / 8 / 200e9 + 678 * 32.2e-6, rel=0.001)


def test_the_share_of_the_peak_is_the_one_that_is_published() -> None:
    """llm-foundry prints its own share of the executed operations (HFU) beside each speed."""
    peaks = {"A100": A100.peak, "H100": H100.peak}
    shares = [
        figure.share_of_peak(next(peak for name, peak in peaks.items() if name in figure.gpus))
        for figure in PUBLISHED
        if figure.source == "llm-foundry"
    ]
    assert shares == pytest.approx([0.6423, 0.7735, 0.6685, 0.4644, 0.5711], abs=0.0005)


def test_every_figure_has_a_source() -> None:
    assert {figure.source for figure in PUBLISHED} == set(SOURCES)


def test_bytes_of_a_step_over_gloo_by_hand() -> None:
    # Of 100 weights of 4 bytes on 4 ranks, three quarters are elsewhere: 300 bytes a gather, 600 an all-reduce.
    assert [step_bytes(zero, 100, 4, 4) for zero in (0, 2, 3)] == [600, 900, 900]
    assert step_bytes(0, 100, 1, 4) == 0


def test_the_page_shows_what_the_command_prints() -> None:
    page = PAGE.read_text(encoding="utf-8")
    missing = [table.splitlines()[0] for table in tables() if table not in page]
    assert missing == []
