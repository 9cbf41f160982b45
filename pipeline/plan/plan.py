"""What a recipe will do and need, told before it runs: stages, tokens, arithmetic, memory, time."""

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.config import Config
from pipeline.flops import training_flops
from pipeline.micro_batches import ranks_at_work, steps_per_epoch
from pipeline.plan.advice import CARDS, CardAdvice, advise, needs
from pipeline.plan.memory import Memory
from pipeline.plan.planner import LargestMicroBatch, Planner
from pipeline.plan.stages import StagePlan, steps_of_course

# Of one H100 SXM, dense, as its maker states them; fp32 without TF32, which PyTorch leaves off.
PEAK_TFLOPS = {"bf16": 989.0, "fp32": 67.0}
MFU = 0.3


@dataclass(frozen=True, slots=True)
class Totals:
    """Of a whole run."""

    steps: int
    tokens: float
    """Question included, padding excluded."""
    label_tokens: float
    flops: float
    seconds: float
    """Of training steps alone: no evaluation, no checkpoints."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that `tacit plan` says."""

    num_rows: int
    steps_per_epoch: int
    longest_cot: int
    """CoT units in the longest row."""
    num_weights: int
    num_trained: int
    stages: list[StagePlan]
    fastest: Totals
    """Of the adaptive schedule's fastest course; the same as ``slowest`` where the schedule is fixed."""
    slowest: Totals
    num_gpus: int
    gpus_at_work: float
    """GPUs that would be as fast if each had an equal share of a step's rows."""
    tflops: float
    mfu: float
    micro_batch: LargestMicroBatch
    phases: dict[str, Memory]
    host_bytes: int
    """In the machine's memory, for each GPU, where something is offloaded."""
    cards: list[CardAdvice]

    @property
    def peak_phase(self) -> str:
        """The phase that takes most memory."""
        return max(self.phases, key=lambda name: self.phases[name].total)

    @property
    def peak(self) -> Memory:
        """What a GPU holds at the worst moment of all."""
        return self.phases[self.peak_phase]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain values, totals of memory included."""
        phases = {name: {**asdict(memory), "total": memory.total} for name, memory in self.phases.items()}
        return {
            **asdict(self),
            "phases": phases,
            "peak_phase": self.peak_phase,
            "peak_bytes": self.peak.total,
            "needed_bytes": needs(self.peak.total),
        }


def make_plan(config: Config, planner: Planner, num_gpus: int, tflops: float | None = None, mfu: float = MFU) -> Plan:
    """Plan a run.

    Args:
        config: The recipe.
        planner: Knows architecture and rows.
        num_gpus: That share the work.
        tflops: Peak of one GPU in 10^12 operations a second; None takes ``PEAK_TFLOPS`` of the precision.
        mfu: Part of the peak that is reached.

    Raises:
        UserError: If settings, architecture and rows do not go together.
    """
    tflops = PEAK_TFLOPS[config.engine.precision] if tflops is None else tflops
    stages, limit = planner.stages(config), config.schedule.max_steps
    per_epoch = steps_per_epoch(planner.rows.num_rows, config.optim.global_batch_size)
    size, phases = planner.size(config), planner.memory(config, num_gpus)
    at_work = ranks_at_work(min(config.optim.global_batch_size, planner.rows.num_rows), num_gpus)
    fastest, slowest = (
        _totals(config, planner, stages, steps_of_course(stages, slow, limit), at_work * tflops * mfu * 1e12)
        for slow in (False, True)
    )
    return Plan(
        planner.rows.num_rows,
        per_epoch,
        planner.rows.lengths.longest_cot(config.removal.unit),
        size.num_weights,
        size.num_trained,
        stages,
        fastest,
        slowest,
        num_gpus,
        at_work,
        tflops,
        mfu,
        planner.largest_micro_batch(config, num_gpus),
        phases,
        planner.host_memory(config, num_gpus),
        [advise(config, planner, num_gpus, card) for card in CARDS],
    )


def _totals(
    config: Config, planner: Planner, stages: list[StagePlan], steps: list[int], flops_per_second: float
) -> Totals:
    num_rows = planner.rows.num_rows
    rows_per_step = num_rows / steps_per_epoch(num_rows, config.optim.global_batch_size)  # an epoch's last is smaller
    rows = [number * rows_per_step for number in steps]
    tokens, labels, squares = (
        sum(number * mean for number, mean in zip(rows, means, strict=True))
        for means in zip(*((stage.mean_tokens, stage.mean_labels, stage.mean_square) for stage in stages), strict=True)
    )
    flops = training_flops(planner.size(config), tokens, labels, squares, config.model.gradient_checkpointing)
    return Totals(sum(steps), tokens, labels, flops, flops / flops_per_second)
