"""What a run leaves behind besides weights: recipe, environment, metrics, samples; and what it shows meanwhile."""

import importlib.metadata
import json
import math
import os
import platform
import resource
import time
from collections.abc import Iterable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.batching import StepBatch
from pipeline.config import Config, config_to_yaml
from pipeline.controller import StageController
from pipeline.engine import StepMetrics
from pipeline.manifest import write_text
from pipeline.ranks import rank, world_size
from pipeline.schedule import Stage
from pipeline.throughput import Throughput
from pipeline.trackers import Trackers, chosen_trackers

PACKAGES = ("torch", "transformers", "deepspeed", "peft", "bitsandbytes", "datasets", "tokenizers", "numpy")
FILES = ("metrics.jsonl", "samples.jsonl")
SECONDS_BETWEEN_LINES = 10  # where there is no terminal to draw a bar on


class Recorder:
    """Writes metrics.jsonl and shows progress, on rank 0; elsewhere it does nothing.

    Speed is measured over the time since the row before, evaluations left out.
    """

    def __init__(
        self,
        run_dir: Path,
        config: Config,
        throughput: Throughput,
        num_removed_at_end: int,
        num_steps_done: int,
        quiet: bool = False,
    ) -> None:
        self._run_dir, self._log_every, self._throughput = run_dir, config.run.log_every, throughput
        self._num_removed_at_end = num_removed_at_end
        self._active = rank() == 0
        self._began = self._last_line = time.monotonic()
        self._first_step = num_steps_done
        self._mfu = ""
        self._end_of_stage: int | None = None
        if not self._active:
            return
        run_dir.mkdir(parents=True, exist_ok=True)
        write_text(run_dir / "recipe.yaml", config_to_yaml(config))
        write_text(run_dir / "environment.json", json.dumps(_environment(), indent=2) + "\n")
        for name in FILES:
            _drop_rows_after(run_dir / name, num_steps_done)
        self._metrics = (run_dir / FILES[0]).open("a", encoding="utf-8")
        self._trackers = Trackers(chosen_trackers(config.run.trackers), run_dir, asdict(config), num_steps_done)
        self._console = Console(stderr=True, quiet=quiet)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=1)
        self._stage_task = self._progress.add_task("", total=None, visible=False)
        self._progress.start()

    def begin_stage(self, controller: StageController, stage: Stage) -> None:
        """Record the optimizer reset that a stage may begin with, as of the step that follows it."""
        self._end_of_stage = controller.end_of_stage
        if controller.reset_step == controller.step:
            first, second = controller.moment_norms
            self.write("reset", controller.step + 1, stage, moment_norm=first, second_moment_norm=second)

    def step(
        self, controller: StageController, stage: Stage, lr: float, metrics: StepMetrics, batch: StepBatch
    ) -> None:
        """Record the step just done; a row is written every ``log_every`` steps and at a stage's first."""
        if not self._active:
            return
        self._throughput.add(batch)
        step = controller.step
        self._show(controller, stage, metrics)
        if step % self._log_every and step != stage.first_step + 1:
            return
        rates = self._throughput.rates()
        self._mfu = "" if rates["mfu"] is None else f"  MFU {rates['mfu']:.0%}"
        self.write(
            "train",
            step,
            stage,
            epoch=round(controller.epoch, 4),
            after_reset=controller.reset_step == step - 1,
            loss=metrics.loss,
            token_accuracy=metrics.token_accuracy,
            lr=lr,
            grad_norm=metrics.grad_norm,
            memory_mib=_peak_memory_mib(),
            **rates,
        )

    def write(self, kind: str, step: int, stage: Stage, **fields: Any) -> None:
        """Append one row to metrics.jsonl; JSON has no word for inf and NaN, so they become null."""
        if self._active:
            for name, value in fields.items():
                if isinstance(value, float) and not math.isfinite(value):
                    fields[name] = None
            place = {"kind": kind, "step": step, "stage": stage.index, "num_removed": stage.num_removed}
            self._metrics.write(json.dumps({**place, **fields}) + "\n")
            self._metrics.flush()
            self._trackers.log(kind, step, {"stage": stage.index, "num_removed": stage.num_removed, **fields})

    def write_samples(self, step: int, samples: Iterable[dict[str, Any]]) -> None:
        """Append evaluated rows to samples.jsonl."""
        if self._active:
            with (self._run_dir / "samples.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"step": step, **sample}, ensure_ascii=False) + "\n" for sample in samples)

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self._active:
            self._console.print(text, highlight=False, markup=False)

    def flush_to_disk(self) -> None:
        """Let nothing that was written so far be lost, not even with the machine."""
        if self._active:
            for name in FILES:
                if (path := self._run_dir / name).exists():
                    with path.open("rb") as file:
                        os.fsync(file.fileno())

    def restart_clock(self) -> None:
        """Begin to measure speed anew."""
        self._throughput.restart()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *exception: object) -> None:
        """Finish the bar and the file, also where a run is cut."""
        if self._active:
            self._progress.stop()
            self._metrics.close()
            self._trackers.close()

    def _show(self, controller: StageController, stage: Stage, metrics: StepMetrics) -> None:
        step, num_steps = controller.step, controller.num_steps
        removed = f"{stage.num_removed}/{self._num_removed_at_end} removed"
        text = f"loss {metrics.loss:.4f}{self._mfu}"
        if self._console.is_terminal:
            # An adaptive run does not know its length; its bar counts removed units until it does.
            done, total = (step, num_steps) if num_steps else (stage.num_removed, self._num_removed_at_end)
            self._progress.update(self._task, description=f"run  {text}", completed=done, total=total)
            end = self._end_of_stage
            self._progress.update(
                self._stage_task,
                description=f"stage {stage.index}  {removed}",
                completed=step - stage.first_step,
                total=None if end is None else end - stage.first_step,
                visible=True,
            )
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            steps = f"{step}/{num_steps}" if num_steps else str(step)
            self.say(f"step {steps}  stage {stage.index}  {removed}  {text}{self._time_left(step, num_steps)}")

    def _time_left(self, step: int, num_steps: int | None) -> str:
        """Return the time to the end at the pace so far, evaluations included; nothing where the end is not known."""
        if not num_steps or step == self._first_step:
            return ""
        seconds = (time.monotonic() - self._began) / (step - self._first_step) * (num_steps - step)
        return f"  {timedelta(seconds=round(seconds))} left"


def _drop_rows_after(path: Path, step: int) -> None:
    """Drop what a cut run wrote after the checkpoint it goes on from, half a last row included; no row stands twice."""
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as file:
            kept = [line for line in file if (row := _whole(line)) is not None and row["step"] <= step]
        write_text(path, "".join(kept))


def _whole(line: str) -> dict[str, Any] | None:
    """Return a row, or None of a line that a cut left unfinished."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if line.endswith("\n") and isinstance(row, dict) and "step" in row else None


def _peak_memory_mib() -> float:
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)


def _environment() -> dict[str, Any]:
    versions = {}
    for package in PACKAGES:
        versions[package] = importlib.metadata.version(package)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "world_size": world_size(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "num_threads": torch.get_num_threads(),
    }
