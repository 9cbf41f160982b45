"""Small real runs of what a training run leans on: ranks that talk, and bitsandbytes."""

import threading
from datetime import timedelta

import torch
import torch.distributed as torch_dist

from pipeline.doctor.finding import Finding

TIMEOUT = timedelta(seconds=10)
LOOPBACK = "127.0.0.1"
# Measured: NF4 rounds normal numbers by 9 % of their mean size. A broken kernel is far off.
NF4_MEAN_ERROR = 0.12


def check_communication() -> list[Finding]:
    """Let two ranks, threads of this process, add their numbers over gloo; tell NCCL's version where there are GPUs.

    Raises:
        Exception: Whatever gloo raises, such as for a host name that does not resolve.
    """
    sums = gloo_sums(2)
    if sums != [3.0, 3.0]:
        return [Finding("communication", "fault", f"gloo: two ranks add 1 and 2 to {sums}", "reinstall torch")]
    found = "gloo: two ranks over loopback agree"
    if torch.cuda.is_available():
        if torch_dist.is_nccl_available():
            found += f"; NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}, not tried"
        elif torch.cuda.device_count() > 1:
            remedy = "install PyTorch's CUDA build for Linux, which brings NCCL"
            return [Finding("communication", "fault", f"{found}; PyTorch was built without NCCL", remedy)]
    return [Finding("communication", "ok", found)]


def gloo_sums(num_ranks: int) -> list[float]:
    """Return what each of some ranks holds after an all-reduce of their numbers, 1 for the first, 2 for the second.

    The ranks are threads, yet what they say goes through sockets, as between processes.
    """
    server = torch_dist.TCPStore(LOOPBACK, 0, is_master=True, timeout=TIMEOUT, wait_for_workers=False)
    numbers = [torch.tensor([rank + 1.0]) for rank in range(num_ranks)]
    errors: list[Exception] = []

    def join_and_add(rank: int) -> None:
        try:
            store = torch_dist.TCPStore(LOOPBACK, server.port, timeout=TIMEOUT, wait_for_workers=False)
            group = torch_dist.ProcessGroupGloo(store, rank, num_ranks, TIMEOUT)
            group.allreduce([numbers[rank]]).wait()  # type: ignore[attr-defined]
        except Exception as error:  # raised again below, in the thread that asked
            errors.append(error)

    threads = [threading.Thread(target=join_and_add, args=(rank,)) for rank in range(num_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [number.item() for number in numbers]


def check_bitsandbytes() -> list[Finding]:
    """Store numbers in NF4 and read them back; take a step of the paged 8-bit AdamW.

    Raises:
        Exception: Whatever bitsandbytes raises where it has no kernel for this device.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return [judge_bitsandbytes(device, nf4_error(device), *adamw_8bit_step(device))]


def nf4_error(device: str) -> float:
    """Return the mean error of normal numbers stored in NF4, relative to their mean size."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit  # takes seconds to import

    numbers = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).to(device)
    stored, scales = quantize_4bit(numbers, quant_type="nf4")
    return ((dequantize_4bit(stored, scales) - numbers).abs().mean() / numbers.abs().mean()).item()


def adamw_8bit_step(device: str) -> tuple[float, str]:
    """Take a first step on ones with a constant gradient.

    Returns:
        How far the weights moved, relative to the learning rate (AdamW's first step moves by just that), and the type
        of the stored moments.
    """
    from bitsandbytes.optim import PagedAdamW8bit

    lr = 0.1
    weights = torch.nn.Parameter(torch.ones(64, 64, device=device))  # moments of fewer than 4,096 stay in 32 bits
    optimizer = PagedAdamW8bit([weights], lr=lr, weight_decay=0.0)
    weights.grad = torch.full_like(weights, 0.5)
    optimizer.step()
    return ((1 - weights).mean() / lr).item(), str(optimizer.state[weights]["state1"].dtype).removeprefix("torch.")


def judge_bitsandbytes(device: str, error: float, step: float, moments: str) -> Finding:
    """Return a fault where NF4 or the optimizer compute something else than they should."""
    found = f"on {device}: NF4 and back within {100 * error:.1f} %; AdamW step {step:.2f} lr, moments in {moments}"
    if not error <= NF4_MEAN_ERROR or not abs(step - 1) <= 0.1 or moments != "uint8":
        return Finding(
            "bitsandbytes",
            "fault",
            found,
            "install the pinned bitsandbytes; until then no model.quantization and optim.optimizer adamw",
        )
    return Finding("bitsandbytes", "ok", found)
