"""Evaluates a run as it goes, and keeps checkpoints, stage models, and the best model of the last stage."""

from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from pipeline.answer_spec import AnswerSpec
from pipeline.checkpoint import save_checkpoint
from pipeline.config import Config
from pipeline.controller import StageController
from pipeline.engine import Engine
from pipeline.evaluation import evaluate
from pipeline.examples import ExampleSet
from pipeline.model_folder import save_model
from pipeline.recorder import Recorder
from pipeline.schedule import Stage


class Keeper:
    """Evaluates and saves where the recipe says so.

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
        tokenizer: PreTrainedTokenizerBase,
        train: ExampleSet,
        validation: ExampleSet,
    ) -> None:
        self._run_dir, self._config = run_dir, config
        self._engine, self._controller, self._recorder, self._tokenizer = engine, controller, recorder, tokenizer
        self._validation = validation.head(config.evaluation.num_examples)
        lengths = np.unique(train.lengths("question_ids"))
        self._question_length = int(lengths[0]) if len(lengths) == 1 else None
        self._longest_cot = train.longest_cot("token")
        self._evaluated_at = self._saved_at = 0
        self.best_accuracy: float | None = None
        self.best_step: int | None = None

    def after_step(self, stage: Stage) -> None:
        """Evaluate and save in mid-stage, where a number of steps asks for it."""
        if self._controller.stage_has_ended:
            return  # a checkpoint now would let a resumed run begin the next stage without what after_stage does
        if self._is_due(self._config.evaluation.every_steps):
            self._evaluate(stage)
        if self._is_due(self._config.run.checkpoint_every):
            self._checkpoint(stage)

    def after_stage(self, stage: Stage) -> None:
        """Evaluate at the end of a stage, keep its model if the recipe names it, and write a checkpoint."""
        config = self._config
        keeps = stage.num_removed in config.run.keep_stages
        is_due = (
            stage.index % config.evaluation.every_stages == 0
            or self._controller.in_last_stage
            or keeps
            or self._is_due(config.evaluation.every_steps)
            or self._is_due(config.run.checkpoint_every)
        )
        if not is_due:
            return
        self._evaluate(stage)
        if keeps:
            # Positions are not built in: a run can start from this model as from any other.
            folder = self._run_dir / "stages" / f"removed_{stage.num_removed:04d}"
            save_model(folder, self._engine, self._tokenizer, self._spec(stage), question_length=None)
        self._checkpoint(stage)

    def finish(self, stage: Stage) -> None:
        """Evaluate and save where the run ended; if that is before its last stage, its only model is this one."""
        self._evaluate(stage)
        if self.best_accuracy is None:
            self._save_model(stage)
        if self._saved_at != self._controller.step:
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
        self._evaluated_at, self._saved_at = state["evaluated_at"], self._controller.step

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
            step=step,
            stage=stage.index,
            num_removed=stage.num_removed,
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
        self._saved_at = self._controller.step
        save_checkpoint(
            self._run_dir / "checkpoints",
            self._controller.step,
            self._engine,
            self._tokenizer,
            self._spec(stage),
            {"controller": self._controller.state(), "keeper": self.state()},
            self._config.run.keep_checkpoints,
        )
        self._recorder.restart_clock()

    def _save_model(self, stage: Stage) -> None:
        save_model(self._run_dir / "model", self._engine, self._tokenizer, self._spec(stage), self._question_length)

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
            base_quantization=self._config.model.quantization,
            num_positions=self._config.model.num_positions,
            dtype="bfloat16" if self._config.engine.precision == "bf16" else "float32",
        )
