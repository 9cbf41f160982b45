"""Speed and MFU by hand, and batches prepared ahead."""

import threading
import time

import pytest
import torch
from transformers import AutoConfig

from pipeline.batching import StepBatch, prepared_ahead
from pipeline.config import LoraConfig, ModelConfig
from pipeline.modeling.fake_model import build_fake_model
from pipeline.throughput import Throughput, measured_peak, peak_flops

CPU = torch.device("cpu")


def batch(step: int = 0) -> StepBatch:
    return StepBatch(step, [], num_label_tokens=6, row_numbers=(0, 1), num_tokens=10, sum_of_squares=58)


def test_rates_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    config = AutoConfig.for_model("gpt2", vocab_size=11, n_embd=4, n_layer=2, n_head=2, n_positions=8)
    size = build_fake_model(config, ModelConfig(), LoraConfig(), torch.float32).size
    clock = iter([0.0, 4.0, 5.0, 7.0, 7.0])
    monkeypatch.setattr("pipeline.throughput.time.monotonic", lambda: next(clock))
    throughput = Throughput(size, peak_flops=1e4)
    throughput.add(batch())
    throughput.add(batch())
    rates = throughput.rates()  # at 4.0
    # 6 a weight and token in two layers of 12 x 4 x 4 weights; attention 12 x 2 layers x 4 wide; the head at 6 labels.
    flops = 2 * (6 * 2 * 12 * 16 * 10 + 12 * 2 * 4 * 58 + 6 * 44 * 6)
    assert rates == {"tokens_per_second": 5.0, "examples_per_second": 1.0, "mfu": round(flops / 4 / 1e4, 4)}
    throughput.add(batch())
    assert throughput.rates()["tokens_per_second"] == 5.0  # 10 tokens in 7.0 - 5.0 seconds: it had begun anew


def test_without_a_known_size_there_is_no_mfu() -> None:
    throughput = Throughput(None, 1.0)
    throughput.add(batch())
    assert throughput.rates()["mfu"] is None


def test_the_peak_is_measured_where_no_data_sheet_is_known() -> None:
    peaks = [measured_peak(CPU, torch.float32) for _ in range(3)]
    assert 1e8 < peak_flops(CPU, torch.float32) < 20 * max(peaks)


def test_batches_are_prepared_while_the_one_before_is_in_use() -> None:
    asked: list[int] = []
    second_was_asked = threading.Event()

    def batches():  # type: ignore[no-untyped-def]
        for step in range(3):
            asked.append(step)
            if step == 1:
                second_was_asked.set()
            yield batch(step)

    iterator = prepared_ahead(batches())
    assert next(iterator).step == 0
    assert second_was_asked.wait(timeout=10)  # without anybody having asked for it
    time.sleep(0.05)
    assert asked == [0, 1]  # one ahead, not more
    assert [item.step for item in iterator] == [1, 2]


def test_a_fault_while_preparing_reaches_the_one_who_trains() -> None:
    def batches():  # type: ignore[no-untyped-def]
        yield batch(0)
        raise ValueError("row 7 is broken")

    iterator = prepared_ahead(batches())
    next(iterator)
    with pytest.raises(ValueError, match="row 7"):
        next(iterator)
