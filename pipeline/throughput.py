"""How fast a run trains, and how much of the hardware's arithmetic that is."""

import time

import torch
from torch.nn import functional

from pipeline.batching import StepBatch
from pipeline.flops import training_flops
from pipeline.model_size import ModelSize
from pipeline.ranks import gather_lists

# Dense bf16 TFLOP/s of tensor cores, by the makers' data sheets; the first name found in the device's counts.
PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "A100": 312.0,
    "A40": 149.7,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}


class Throughput:
    """Counts what is trained, over the time since the rates were last taken."""

    def __init__(self, size: ModelSize | None, peak_flops: float) -> None:
        """Start the clock.

        Args:
            size: Of the model; None where it is not known, and so MFU is not either.
            peak_flops: FLOP/s that all devices of the run can reach together.
        """
        self._size, self._peak_flops = size, peak_flops
        self.restart()

    def restart(self) -> None:
        """Begin anew: what was done meanwhile was not training."""
        self._since, self._rows, self._tokens, self._flops = time.monotonic(), 0, 0, 0.0

    def add(self, batch: StepBatch) -> None:
        """Count a step of all ranks."""
        self._rows += len(batch.row_numbers)
        self._tokens += batch.num_tokens
        if self._size is not None:
            # Repeated work of gradient checkpointing is none of the model's, and does not count in MFU.
            self._flops += training_flops(
                self._size, batch.num_tokens, batch.num_label_tokens, batch.sum_of_squares, gradient_checkpointing=False
            )

    def rates(self) -> dict[str, float | None]:
        """Return tokens and examples per second and MFU, and begin anew.

        MFU, model FLOPs utilization = FLOPs that the model needs for the unpadded tokens (see ``training_flops``) /
        (seconds x peak FLOP/s). The peak is the data sheet's for bf16, or as measured by a matrix product where the
        device is not listed, or the precision is another.

        Source: arXiv:2204.02311, appendix B.
        """
        seconds = time.monotonic() - self._since
        rates: dict[str, float | None] = {
            "tokens_per_second": round(self._tokens / seconds, 1),
            "examples_per_second": round(self._rows / seconds, 2),
            "mfu": round(self._flops / seconds / self._peak_flops, 4) if self._size is not None else None,
        }
        self.restart()
        return rates


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s that the devices of all ranks can reach together, each rank asking its own."""
    return sum(gather_lists([_listed_peak(device, dtype) or measured_peak(device, dtype)]))


def _listed_peak(device: torch.device, dtype: torch.dtype) -> float | None:
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    name = torch.cuda.get_device_name(device)
    return next((1e12 * peak for key, peak in PEAK_TFLOPS.items() if key in name), None)


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a large matrix product, the best of several."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    seconds = []
    for _ in range(4):  # the first warms up
        begin = time.perf_counter()
        functional.linear(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds[1:])
