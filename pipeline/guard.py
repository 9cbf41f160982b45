"""Looks at every step for what must not happen: losses and gradients that are no numbers, stages that collapse."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.batching import StepBatch
from pipeline.checkpoint import load_checkpoint
from pipeline.collapse import LossWatch, after_stage, after_step
from pipeline.config import Config
from pipeline.controller import StageController
from pipeline.engine import Engine, StepMetrics
from pipeline.errors import RunError
from pipeline.recorder import Recorder
from pipeline.schedule import Stage


class Guard:
    """Records faults of a step or stage, and does what the recipe says about them."""

    def __init__(
        self, config: Config, engine: Engine, controller: StageController, recorder: Recorder, checkpoints: Path
    ) -> None:
        self._config, self._engine, self._controller, self._recorder = config, engine, controller, recorder
        self._checkpoints = checkpoints
        self._num_nonfinite = 0  # in a row
        self._losses = LossWatch()

    def after_step(self, stage: Stage, metrics: StepMetrics, batch: StepBatch) -> None:
        """Look at a step, and at its stage where it was the last.

        Raises:
            RunError: If ``optim.max_nonfinite`` steps in a row were not finite.
        """
        if metrics.is_finite:
            self._num_nonfinite = 0
            self._losses = after_step(self._losses, metrics.loss)
        else:
            self._num_nonfinite += 1
            self._handle_nonfinite(stage, metrics, batch)
        if self._controller.stage_has_ended and self._losses.recent:
            self._judge(stage)

    def state(self) -> dict[str, Any]:
        """Return what ``restore`` needs, as JSON."""
        return {"num_nonfinite": self._num_nonfinite, "losses": asdict(self._losses)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self._num_nonfinite = state["num_nonfinite"]
        self._losses = LossWatch(**{**state["losses"], "recent": tuple(state["losses"]["recent"])})

    def _handle_nonfinite(self, stage: Stage, metrics: StepMetrics, batch: StepBatch) -> None:
        optim, step = self._config.optim, self._controller.step
        stops = self._num_nonfinite >= optim.max_nonfinite
        back_to = self._roll_back() if optim.on_nonfinite == "roll_back" and not stops else None
        self._recorder.write(
            "nonfinite",
            step,
            stage,
            loss=metrics.loss,
            grad_norm=metrics.grad_norm,
            rows=list(batch.row_numbers),
            in_a_row=self._num_nonfinite,
            rolled_back_to=back_to,
        )
        what = f"step {step}: loss {metrics.loss}, gradient norm {metrics.grad_norm}"
        if stops:
            raise RunError(
                f"{what}; no number in {self._num_nonfinite} steps in a row (optim.max_nonfinite). Training rows of "
                f"this batch: {list(batch.row_numbers)}. Look at these rows, or lower optim.lr; --resume goes on from "
                "the last checkpoint."
            )
        done = "left out" if back_to is None else f"left out, with all updates since step {back_to}"
        self._recorder.say(f"{what}: no number; {done}")

    def _roll_back(self) -> int | None:
        """Take weights and moments from the newest checkpoint; return its step, or None if there is none."""
        saved = load_checkpoint(self._checkpoints, self._engine)
        if saved is None:
            return None
        if saved["controller"]["reset_step"] != self._controller.reset_step:
            self._engine.reset_optimizer_state()  # the moments there are older than the latest reset
        return saved["step"]

    def _judge(self, stage: Stage) -> None:
        reference = self._losses.reference
        self._losses, loss = after_stage(self._losses, self._config.run.collapse_ratio)
        if not self._losses.has_collapsed:
            return
        step = self._controller.step
        self._recorder.write("collapse", step, stage, loss=loss, loss_before=reference)
        self._recorder.say(
            f"step {step}: stage {stage.index} ({stage.num_removed} removed) ends at loss {loss:.3f}, after "
            f"{reference:.3f} before: it has not recovered. A slower pace helps, or the adaptive schedule."
        )
