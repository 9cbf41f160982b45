"""Evaluates a run as it goes, and keeps checkpoints, stage models, and the best model of the last stage."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from pipeline.answer_spec import FILE_NAME, AnswerSpec, load_spec
from pipeline.checkpoint import save_checkpoint
from pipeline.config import Config
from pipeline.controller import StageController
from pipeline.engine import Engine
from pipeline.errors import Interrupted
from pipeline.evaluation import evaluate
from pipeline.examples import ExampleSet, contents
from pipeline.guard import Guard
from pipeline.model_folder import save_model
from pipeline.ranks import from_rank_zero
from pipeline.recorder import Recorder
from pipeline.requests import Request, Requests
from pipeline.schedule import Stage
from pipeline.stage_registry import stage_folder

SECONDS_BEFORE_KILL = 30
"""DeepSpeed's launcher kills ranks that long after it has told them to stop; `launchers/one_node.sh` waits for them."""


class Keeper:
    """Evaluates and saves where the recipe says so, or somebody asks for it.

    Attributes:
        best_accuracy: Best validation accuracy in the last stage, of the model in ``model/``; None before the first.
        best_step: The step of that model.
    """

    def __init__(
        self,
        run_dir: Path,
        config: Config,
        engine: Engine,
        controller: StageController,
        recorder: Recorder,
        guard: Guard,
        requests: Requests,
        tokenizer: PreTrainedTokenizerBase,
        train: ExampleSet,
        validation: ExampleSet,
    ) -> None:
        self._run_dir, self._config = run_dir, config
        self._engine, self._controller, self._recorder, self._tokenizer = engine, controller, recorder, tokenizer
        self._guard, self._requests = guard, requests
        self._request = Request.NONE
        self._content = contents(train, validation)
        self._validation = validation.head(config.evaluation.num_examples)
        lengths = np.unique(train.lengths("question_ids"))
        self._question_length = int(lengths[0]) if len(lengths) == 1 else None
        self._longest_cot = train.longest_cot("token")
        self._evaluated_at = self._saved_at = self._begun_at = 0
        self.best_accuracy: float | None = None
        self.best_step: int | None = None

    def after_step(self, stage: Stage) -> None:
        """Evaluate and save in mid-stage, where a number of steps or a request asks for it.

        Raises:
            Interrupted: If the run was asked to stop; it has saved then.
        """
        self._request = max(self._request, self._requests.poll())
        if self._controller.stage_has_ended:
            return  # a checkpoint now would let a resumed run begin the next stage without what after_stage does
        if self._is_due(self._config.evaluation.every_steps):
            self._evaluate(stage)
        if self._request or self._is_due(self._config.run.checkpoint_every):
            self._checkpoint(stage)
        self._stop_if_asked()

    def after_stage(self, stage: Stage) -> None:
        """Evaluate at the end of a stage, keep its model if the recipe names it, and write a checkpoint.

        Raises:
            Interrupted: If the run was asked to stop before its end; it has saved then.
        """
        config = self._config
        every = config.run.keep_every
        keeps = stage.num_removed in config.run.keep_stages or (every is not None and stage.num_removed % every == 0)
        evaluates = (
            stage.index % config.evaluation.every_stages == 0
            or self._controller.in_last_stage
            or keeps
            or self._is_due(config.evaluation.every_steps)
        )
        if evaluates:
            self._evaluate(stage)
        if keeps:
            # Positions are not built in: a run can start from this model as from any other.
            folder = stage_folder(self._run_dir, stage.num_removed)
            save_model(folder, self._engine, self._tokenizer, self._spec(stage), question_length=None)
        if evaluates or self._request or self._is_due(config.run.checkpoint_every):
            self._checkpoint(stage)
        if self._controller.step != self._controller.num_steps:
            self._stop_if_asked()

    def finish(self, stage: Stage) -> None:
        """Evaluate and save where the run ended; if that is before its last stage, its only model is this one."""
        evaluated_at = self._evaluated_at
        self._evaluate(stage)
        has_trained = self._controller.step > self._begun_at  # else `stage` may be one that had no step
        if self.best_accuracy is None and (has_trained or not (self._run_dir / "model").is_dir()):
            self._save_model(stage)
        if self._saved_at != self._controller.step or self._evaluated_at != evaluated_at:
            self._checkpoint(stage)

    def state(self) -> dict[str, Any]:
        """Return what ``restore`` needs, as JSON."""
        return {
            "best_accuracy": self.best_accuracy,
            "best_step": self.best_step,
            "evaluated_at": self._evaluated_at,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.best_accuracy, self.best_step = state["best_accuracy"], state["best_step"]
        chosen = from_rank_zero(_chosen(self._run_dir / "model"))
        if chosen and chosen[1] > self._controller.step:  # saved after the checkpoint, before the run was cut
            self.best_accuracy, self.best_step = chosen
        self._evaluated_at = state["evaluated_at"]
        self._saved_at = self._begun_at = self._controller.step

    def _is_due(self, every_steps: int | None) -> bool:
        return every_steps is not None and self._controller.step % every_steps == 0

    def _evaluate(self, stage: Stage) -> None:
        step = self._controller.step
        if step == self._evaluated_at:
            return
        self._evaluated_at = step
        with self._engine.gathered() as model:
            spec, settings = self._spec(stage), self._config.evaluation
            result = evaluate(
                model, self._tokenizer, self._validation, spec, settings.batch_size, verify=settings.verify
            )
        self._recorder.write(
            "evaluation",
            step,
            stage,
            accuracy=result.accuracy,
            num_examples=len(result.samples),
            cot_tokens=result.mean_cot_tokens,
        )
        self._recorder.write_samples(step, (sample.to_json() for sample in result.samples))
        self._recorder.say(
            f"step {step}  {stage.num_removed} removed  validation accuracy {result.accuracy:.3f}  "
            f"CoT tokens written {result.mean_cot_tokens:.1f}"
        )
        # Of equals the later one: it has trained longer.
        if self._controller.is_last(stage) and result.accuracy >= (self.best_accuracy or 0.0):
            self.best_accuracy, self.best_step = result.accuracy, step
            self._save_model(stage)
        self._recorder.restart_clock()

    def _checkpoint(self, stage: Stage) -> None:
        begin, step = time.monotonic(), self._controller.step
        self._recorder.flush_to_disk()
        save_checkpoint(
            self._run_dir / "checkpoints",
            step,
            self._engine,
            self._tokenizer,
            self._spec(stage),
            self._state_of_run(),
            keep=self._config.run.keep_checkpoints,
            ends_stage=self._controller.stage_has_ended,
            keep_stage_ends=self._config.run.keep_stage_checkpoints,
        )
        seconds = time.monotonic() - begin
        self._recorder.write(
            "checkpoint",
            step,
            stage,
            seconds=round(seconds, 3),
            requested=self._request > Request.NONE,
        )
        if self._request is Request.SAVE:
            self._recorder.say(f"step {step}  saved on request in {seconds:.1f} s")
            self._request = Request.NONE
        elif self._request is Request.STOP and seconds > SECONDS_BEFORE_KILL:
            self._recorder.say(f"saving took {seconds:.0f} s; DeepSpeed's launcher kills after {SECONDS_BEFORE_KILL}")
        self._saved_at = step
        self._requests.saved()
        self._recorder.restart_clock()

    def _state_of_run(self) -> dict[str, Any]:
        return {
            "controller": self._controller.state(),
            "keeper": self.state(),
            "guard": self._guard.state(),
            "content": self._content,
        }

    def _stop_if_asked(self) -> None:
        if self._request is Request.STOP:
            reason = self._requests.reason or "asked through another rank"
            raise Interrupted(f"stopped at step {self._controller.step} ({reason}), and saved")

    def _save_model(self, stage: Stage) -> None:
        spec = replace(self._spec(stage), step=self._controller.step, validation_accuracy=self.best_accuracy)
        save_model(self._run_dir / "model", self._engine, self._tokenizer, spec, self._question_length)

    def _spec(self, stage: Stage) -> AnswerSpec:
        removal = self._config.removal
        return AnswerSpec(
            self._config.format,
            stage.num_removed,
            stage.removes_all,
            removal.side,
            removal.unit,
            removal.keep_positions,
            self._longest_cot,
            removal.right_first,
            base_quantization=self._config.model.quantization,
            num_positions=self._config.model.num_positions,
            dtype="bfloat16" if self._config.engine.precision == "bf16" else "float32",
        )


def _chosen(folder: Path) -> tuple[float, int] | None:
    """Return accuracy and step of the model that a run has chosen so far, or None."""
    if not (folder / FILE_NAME).is_file():
        return None
    spec = load_spec(folder)
    if spec.step is None or spec.validation_accuracy is None:
        return None
    return spec.validation_accuracy, spec.step
