"""GPUs, memory, disk, shared memory, open files and threads. What is measured and what is judged are apart."""

import os
import resource
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from pipeline.doctor.finding import GIB, Finding, State, reason_of

CGROUP = Path("/sys/fs/cgroup")  # where a container's limits stand
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as PyTorch sees it."""

    name: str
    free_gib: float
    total_gib: float
    capability: tuple[int, int]
    fault: str
    """Why a small matrix product failed on it; empty where it did not."""


def check_devices(precision: str | None) -> list[Finding]:
    """Look at every GPU, and compute on it.

    Args:
        precision: What the recipe asks for; None without a recipe.
    """
    gpus = [_measure_gpu(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return judge_devices(
        gpus,
        driver=_nvidia_smi("driver_version"),
        cuda_of_torch=torch.version.cuda,
        hidden=os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"),
        accelerator=os.environ.get("DS_ACCELERATOR"),
        precision=precision,
    )


def _measure_gpu(index: int) -> Gpu:
    free, total = torch.cuda.mem_get_info(index)
    fault = ""
    try:
        ones = torch.ones(64, 64, device=f"cuda:{index}")
        if (ones @ ones).sum().item() != 64**3:
            fault = "a matrix product came out wrong"
    except RuntimeError as error:
        fault = reason_of(error)
    name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    return Gpu(name, free / GIB, total / GIB, capability, fault)


def _nvidia_smi(field: str) -> str | None:
    """Return a field of the driver's own tool, of the first GPU; None where there is no GPU or no tool."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = finished.stdout.split("\n")
    return lines[0].strip() or None if finished.returncode == 0 else None


def judge_devices(
    gpus: Sequence[Gpu],
    *,
    driver: str | None,
    cuda_of_torch: str | None,
    hidden: bool,
    accelerator: str | None,
    precision: str | None,
) -> list[Finding]:
    """Return a line for each GPU, and a fault for one that is there but cannot be used.

    Args:
        gpus: Those that PyTorch can use.
        driver: Version of the NVIDIA driver, if its own tool sees a GPU.
        cuda_of_torch: CUDA version PyTorch was built for; None for its CPU build.
        hidden: Whether CUDA_VISIBLE_DEVICES hides every GPU.
        accelerator: DS_ACCELERATOR, by which DeepSpeed can be kept off the GPU.
        precision: What the recipe asks for; None without a recipe.
    """
    if not gpus:
        if driver and hidden:
            found = f"a GPU (driver {driver}), hidden by CUDA_VISIBLE_DEVICES"
            return [Finding("devices", "note", found, "unset it to train on the GPU")]
        if driver and cuda_of_torch is None:
            remedy = "install PyTorch's CUDA build"
            return [Finding("devices", "fault", f"a GPU (driver {driver}), but PyTorch's CPU build", remedy)]
        if driver:
            remedy = f"update the driver to one for CUDA {cuda_of_torch}"
            return [Finding("devices", "fault", f"a GPU (driver {driver}) that PyTorch cannot use", remedy)]
        if cuda_of_torch:
            remedy = "in a container, start it with --gpus all; elsewhere install NVIDIA's driver, or go on on the CPU"
            return [Finding("devices", "note", f"no GPU, though PyTorch is built for CUDA {cuda_of_torch}", remedy)]
        return [Finding("devices", "ok", "no GPU: everything runs on the CPU")]
    findings = []
    for number, gpu in enumerate(gpus):
        check = f"GPU {number}"
        bf16 = gpu.capability >= (8, 0)
        found = (
            f"{gpu.name}, {gpu.free_gib:.1f} of {gpu.total_gib:.1f} GiB free, compute capability "
            f"{gpu.capability[0]}.{gpu.capability[1]}, {'bf16' if bf16 else 'no bf16'}, driver {driver}, CUDA "
            f"{cuda_of_torch}"
        )
        if gpu.fault:
            remedy = "install a PyTorch build that covers this GPU, and end what else fills its memory"
            findings.append(Finding(check, "fault", f"{found}: {gpu.fault}", remedy))
        elif not bf16:
            state: State = "fault" if precision == "bf16" else "note"
            findings.append(Finding(check, state, found, "set engine.precision fp32"))
        elif gpu.free_gib < gpu.total_gib / 2:
            findings.append(Finding(check, "note", found, "end what else uses it; `nvidia-smi` lists it"))
        else:
            findings.append(Finding(check, "ok", found))
    if accelerator == "cpu":
        found = "DS_ACCELERATOR=cpu keeps training off the GPU"
        findings.append(Finding("devices", "note", found, "unset it to train on the GPU"))
    return findings


def check_memory() -> list[Finding]:
    """Measure the memory that is available, and a container's limit."""
    return [judge_memory(psutil.virtual_memory().available, container_bytes(_read(CGROUP / "memory.max")))]


def container_bytes(memory_max: str) -> int | None:
    """Return a control group's limit in bytes from its ``memory.max``; None where it has none."""
    return int(memory_max) if memory_max.strip().isdigit() else None


def judge_memory(available: int, limit: int | None) -> Finding:
    """Judge the host's memory: the libraries alone take half a GiB a rank, weights and moments come on top."""
    usable = available if limit is None else min(available, limit)
    found = f"{usable / GIB:.1f} GiB available" + (f" (the container's limit: {limit / GIB:.1f})" if limit else "")
    if usable < 2 * GIB:
        return Finding("memory", "fault", found, "free some, or raise the container's limit: a rank needs 2 GiB")
    if usable < 8 * GIB:
        return Finding("memory", "note", found, "enough for small models; `tacit plan` says what a recipe needs")
    return Finding("memory", "ok", found)


def check_disk(folders: Iterable[tuple[str, Path]]) -> list[Finding]:
    """Measure the disk under each folder, there or yet to be made."""
    findings = []
    for check, folder in folders:
        absolute = folder.expanduser().absolute()
        there = next(path for path in (absolute, *absolute.parents) if path.exists())
        writable = there.is_dir() and os.access(there, os.W_OK)
        findings.append(judge_disk(check, folder, shutil.disk_usage(there).free, writable))
    return findings


def judge_disk(check: str, folder: Path, free: int, writable: bool) -> Finding:
    """Judge a folder: a checkpoint takes about 12 bytes a parameter in bf16, and three lie side by side for a while."""
    found = f"{folder}: {free / GIB:.1f} GiB free"
    if not writable:
        return Finding(check, "fault", f"{folder}: cannot be written to", "name another folder, or change its owner")
    if free < GIB:
        return Finding(check, "fault", found, "free some, or name a folder on another disk")
    if free < 20 * GIB:
        return Finding(check, "note", found, "enough for models up to about 500M parameters; free some for larger")
    return Finding(check, "ok", found)


def check_shared_memory() -> list[Finding]:
    """Measure /dev/shm, over which GPUs of one node talk and data workers hand over rows."""
    size = shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.is_dir() else 0
    return [judge_shared_memory(size, torch.cuda.device_count())]


def judge_shared_memory(size: int, num_gpus: int) -> Finding:
    """Judge the size of /dev/shm in bytes: Docker gives 64 MiB unless told otherwise, too little for NCCL."""
    found = f"/dev/shm: {size / GIB:.2f} GiB" if size else "no /dev/shm"
    if size >= GIB:
        return Finding("shared memory", "ok", found)
    remedy = "start the container with --shm-size 16g (or --ipc host)"
    return Finding("shared memory", "fault" if num_gpus > 1 else "note", found, remedy)


def check_open_files() -> list[Finding]:
    """Read the limit of open files."""
    return [judge_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])]


def judge_open_files(soft: int) -> Finding:
    """Judge the limit: many ranks hold many sockets, and a sharded model opens many files at once."""
    if soft == resource.RLIM_INFINITY or soft >= 1024:
        shown = "no limit" if soft == resource.RLIM_INFINITY else f"{soft:,}"
        return Finding("open files", "ok", shown)
    return Finding("open files", "note", f"{soft:,}", "`ulimit -n 65536`, or docker run --ulimit nofile=65536")


def check_threads(num_threads: int | None) -> list[Finding]:
    """Compare the threads that a rank computes with against the cores there are for it.

    Args:
        num_threads: What the recipe asks for, if it does.
    """
    cores = usable_cores(len(os.sched_getaffinity(0)), _read(CGROUP / "cpu.max"))
    num_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 0)) or max(torch.cuda.device_count(), 1)
    threads = torch.get_num_threads() if num_threads is None else num_threads
    return [judge_threads(threads, num_ranks, cores, has_gpu=torch.cuda.is_available())]


def usable_cores(num_allowed: int, cpu_max: str) -> int:
    """Return the cores this process may use: those it is bound to, or fewer by a control group's ``cpu.max``."""
    quota, _, period = cpu_max.strip().partition(" ")
    return min(num_allowed, max(1, int(quota) // int(period))) if quota.isdigit() else num_allowed


def judge_threads(threads: int, num_ranks: int, cores: int, *, has_gpu: bool) -> Finding:
    """Judge threads a rank: more than there are cores slow each other down, too few leave a CPU run idle cores."""
    share = max(1, cores // num_ranks)
    found = f"{threads} a rank, {num_ranks} rank{'s' if num_ranks > 1 else ''} on this node, {cores} cores"
    if threads > share:
        return Finding("threads", "note", found, f"set OMP_NUM_THREADS={share} or engine.num_threads {share}")
    if not has_gpu and 2 * threads <= share:
        found += ", some of them idle"
        return Finding("threads", "note", found, f"set OMP_NUM_THREADS={share} for a run of one rank")
    return Finding("threads", "ok", found)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
