"""The stage controller: which stage a run is in, and what happens where one ends.

At a boundary it rebuilds the dataloader over what is left of the epoch and resets the optimizer.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pipeline.batching import RemovalRule, StepBatch, StepDataset, build_dataloader, prepared_ahead
from pipeline.config import Config
from pipeline.engine import Engine, StepMetrics
from pipeline.examples import ExampleSet
from pipeline.learning_rate import learning_rate
from pipeline.micro_batches import steps_per_epoch
from pipeline.ranks import from_rank_zero, rank, world_size
from pipeline.schedule import (
    AdaptiveState,
    Stage,
    adaptive_after_step,
    adaptive_decision,
    adaptive_move,
    adaptive_start,
    fixed_schedule,
    last_num_removed,
    num_final_steps,
    stage_numbers,
)


class StageController:
    """Walks a run through its stages.

    Attributes:
        step: Optimizer steps done.
        stage: The stage that the next step belongs to.
        reset_step: The first step after the latest optimizer reset, or None before any.
        moment_norms: Norms of AdamW's first and second moments just before that reset.
        steps_per_epoch: Optimizer steps in one pass over the training rows.
        longest_cot: CoT units in the longest training row.
    """

    def __init__(self, config: Config, examples: ExampleSet, engine: Engine) -> None:
        self._config, self._examples, self._engine = config, examples, engine
        self.steps_per_epoch = steps_per_epoch(len(examples), config.optim.global_batch_size)
        self.longest_cot = examples.longest_cot(config.removal.unit)
        self._last_num_removed = last_num_removed(self.longest_cot, config.schedule.remove_all_beyond)
        self._rule = RemovalRule(config.removal, examples.longest_cot("token"))
        self.step = 0
        self.reset_step: int | None = None
        self.moment_norms = (0.0, 0.0)
        self._fixed = None
        self._adaptive = None
        if config.schedule.kind == "adaptive":
            self._adaptive = adaptive_start(config.schedule, self.longest_cot)
        else:
            self._fixed = fixed_schedule(config.schedule, self.steps_per_epoch, self.longest_cot)
        self.stage = self._current_stage()

    @property
    def num_steps(self) -> int | None:
        """Optimizer steps of the whole run; None while an adaptive schedule does not know."""
        if self._fixed:
            return self._fixed.num_steps
        limits = [self._config.schedule.max_steps] if self._config.schedule.max_steps is not None else []
        if self.in_last_stage:
            final_steps = num_final_steps(self._config.schedule.final_epochs, self.steps_per_epoch)
            limits.append(self.stage.first_step + final_steps)
        return min(limits, default=None)

    @property
    def num_removed_at_end(self) -> int:
        """CoT units removed in the run's last stage."""
        return stage_numbers(self._config.schedule, self.longest_cot)[-1]

    @property
    def in_last_stage(self) -> bool:
        """Whether the present stage is the one in which the model that is kept is chosen."""
        return self.is_last(self.stage)

    def is_last(self, stage: Stage) -> bool:
        """Return whether the run has no stage after this one."""
        return stage.removes_all or self._config.schedule.kind == "explicit_cot"

    @property
    def stage_has_ended(self) -> bool:
        """Whether the step just done was the last of its stage, or of the run."""
        return self._current_stage() != self.stage or self.step == self.num_steps

    @property
    def end_of_stage(self) -> int | None:
        """The step at which the present stage ends; None while an adaptive schedule does not know."""
        if self._fixed:
            return self._fixed.end_of(self.stage)
        return self.num_steps if self.in_last_stage else None

    @property
    def epoch(self) -> float:
        """Passes over the training rows so far."""
        return self.step / self.steps_per_epoch

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        num_steps = self._fixed.num_steps if self._fixed else self._config.schedule.max_steps
        end = self.end_of_stage if self.in_last_stage else None
        last_stage = None if end is None else range(self.stage.first_step, end)
        return learning_rate(self._config.optim, self.step, num_steps, self.reset_step, last_stage)

    def stages(self) -> Iterator[tuple[Stage, Iterator[StepBatch]]]:
        """Yield each stage with its batches, from the present step to the end of the run.

        The caller trains on every batch and calls ``after_step``; what it does between two stages happens before the
        optimizer is reset for the next one.
        """
        while self.num_steps is None or self.step < self.num_steps:
            self._enter_stage()
            yield self.stage, self._batches()
            self.stage = self._current_stage()

    def after_step(self, metrics: StepMetrics) -> None:
        """Count a step; the adaptive schedule decides here whether its stage has ended."""
        self.step += 1
        if self._adaptive is None or self.in_last_stage or not metrics.is_finite:
            return
        adaptive = self._config.schedule.adaptive
        self._adaptive = adaptive_after_step(self._adaptive, metrics.loss, adaptive)
        decision = from_rank_zero(adaptive_decision(self._adaptive, self.step, adaptive) if rank() == 0 else None)
        if decision != "hold":
            self._adaptive = adaptive_move(self._adaptive, decision, self.step, adaptive, self._last_num_removed)

    def state(self) -> dict[str, Any]:
        """Return, as plain JSON values, all that ``restore`` needs."""
        return {"reset_step": self.reset_step, "adaptive": asdict(self._adaptive) if self._adaptive else None}

    def restore(self, step: int, state: dict[str, Any]) -> None:
        """Stand where a run stood that had done ``step`` steps."""
        self.step = step
        self.reset_step = state["reset_step"]
        if state["adaptive"] is not None:
            fields = dict(state["adaptive"])
            fields["stage"], fields["recent_losses"] = Stage(**fields["stage"]), tuple(fields["recent_losses"])
            self._adaptive = AdaptiveState(**fields)
        self.stage = self._current_stage()

    def _current_stage(self) -> Stage:
        if self._adaptive:
            return self._adaptive.stage
        assert self._fixed is not None
        return self._fixed.stage_at(self.step)

    def _enter_stage(self) -> None:
        # After a cut at a boundary this comes again: the moments are zero then, and nothing changes.
        if self.stage.resets_optimizer and self.step == self.stage.first_step and self._config.optim.reset_at_stage:
            self.moment_norms = self._engine.moment_norms()
            self._engine.reset_optimizer_state()
            self.reset_step = self.step

    def _batches(self) -> Iterator[StepBatch]:
        """Yield the stage's batches, one loader for each epoch that the stage touches."""
        while self._current_stage() == self.stage and (end := self._last_step_of_loader()) > self.step:
            dataset = StepDataset(
                self._examples,
                self.stage,
                self._rule,
                seed=self._config.run.seed,
                epoch=self.step // self.steps_per_epoch,
                global_batch_size=self._config.optim.global_batch_size,
                micro_batch_tokens=self._config.engine.micro_batch_tokens,
                rank=rank(),
                num_ranks=world_size(),
            )
            for batch in prepared_ahead(build_dataloader(dataset, range(self.step, end))):
                yield batch
                if self._current_stage() != self.stage:
                    return

    def _last_step_of_loader(self) -> int:
        """Return the step before which the present loader ends: of the epoch, the stage, or the run."""
        end = (self.step // self.steps_per_epoch + 1) * self.steps_per_epoch
        if self._fixed:
            end = min(end, self._fixed.end_of(self.stage))
        return end if self.num_steps is None else min(end, self.num_steps)
