"""Fair timing: variants take turns in one process, and what is reported is their ratio."""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PACKAGES = ("torch", "transformers", "deepspeed", "tokenizers", "datasets", "numpy")


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of the same work, repeated."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    def speed_up_over(self, baseline: "Timing") -> "Spread":
        """Return the baseline's time over this one's, taken turn by turn."""
        ratios = [slow / fast for slow, fast in zip(baseline.seconds, self.seconds, strict=True)]
        return Spread(statistics.median(ratios), min(ratios), max(ratios))


@dataclass(frozen=True, slots=True)
class Spread:
    """A median between the extremes."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def take_turns(variants: Mapping[str, Callable[[], object]], repeats: int = 5, warm_up: int = 1) -> dict[str, Timing]:
    """Time every variant ``repeats`` times, one after the other in each turn, after ``warm_up`` turns not counted.

    What else the machine does then weighs on all alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(warm_up + repeats):
        for name, work in variants.items():
            begin = time.perf_counter()
            work()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - begin)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


class MatrixProduct:
    """A square matrix product: calling it does one, by which a machine's limit is measured."""

    def __init__(self, dtype: torch.dtype) -> None:
        size = 8192 if DEVICE.type == "cuda" else 1536
        self._left, self._right = (torch.randn(size, size, dtype=dtype, device=DEVICE) for _ in range(2))
        self.flops = 2 * size**3

    def __call__(self) -> None:
        """Do one product."""
        torch.nn.functional.linear(self._left, self._right)
        wait()


def wait() -> None:
    """Return when the device has done all it was told to."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize(DEVICE)


def memory_bandwidth(mebibytes: int = 256, repeats: int = 5) -> float:
    """Return the bytes/s that a copy of a tensor too large for the caches reads and writes, the best of several."""
    source = torch.ones(mebibytes * 2**18, device=DEVICE)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        wait()

    timing = take_turns({"copy": copy}, repeats)["copy"]
    return 2 * mebibytes * 2**20 / min(timing.seconds)


def where() -> str:
    """Return what computes, in a few words."""
    return torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"{torch.get_num_threads()} threads"


def machine() -> dict[str, Any]:
    """Return what a figure depends on besides the code."""
    return {
        "cpu": _cpu_name(),
        "gpu": torch.cuda.get_device_name() if DEVICE.type == "cuda" else None,
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _cpu_name() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))


@dataclass(slots=True)
class Section:
    """One table of results. Cells are strings or numbers; a row may lack some columns."""

    title: str
    note: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)

    def print(self, console: Console) -> None:
        """Show the table."""
        columns: Sequence[str] = list(dict.fromkeys(name for row in self.rows for name in row))
        table = Table(*columns, title=self.title, caption=self.note, title_justify="left", caption_justify="left")
        for row in self.rows:
            table.add_row(*(_cell(row.get(name, "")) for name in columns))
        console.print(table)

    def to_json(self) -> dict[str, Any]:
        """Return the table as plain JSON values."""
        return {"title": self.title, "note": self.note, "rows": [dict(row) for row in self.rows]}


def _cell(value: object) -> str:
    return f"{value:,.3g}" if isinstance(value, float) else str(value)
