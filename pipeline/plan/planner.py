"""What the memory of a recipe's steps comes to; the traces that settings share are asked for once."""

from dataclasses import dataclass

from pipeline.config import Config
from pipeline.ds_config import check_suits_quantization
from pipeline.errors import UserError
from pipeline.layout import EXTRA_TOKENS
from pipeline.micro_batches import plan_micro_batches, steps_per_epoch
from pipeline.model_size import ModelSize
from pipeline.plan.keys import model_key, shapes_key
from pipeline.plan.lengths import RowLengths
from pipeline.plan.measurements import Measurements
from pipeline.plan.memory import Memory, Placement, host_bytes, memory_by_phase
from pipeline.plan.peaks import DecodingTrace, MicroBatchTrace, between
from pipeline.plan.stages import StagePlan, plan_stages
from pipeline.plan.zero import zero_settings

ELEMENT_BYTES = {"bf16": 2, "fp32": 4}


@dataclass(frozen=True, slots=True)
class Rows:
    """The training rows, as far as a plan needs them."""

    lengths: RowLengths
    num_rows: int
    """In training; more than there are lengths where a sample stands for them."""


@dataclass(frozen=True, slots=True)
class LargestMicroBatch:
    """What the memory of a step is planned for."""

    num_rows: int
    row_length: int
    num_labels: int
    """In each row."""
    per_step: int
    """Micro-batches that one GPU runs in a step of such rows."""


class Planner:
    """Answers for one architecture and one set of rows, for recipes that differ in all else.

    Attributes:
        rows: The training rows.
    """

    def __init__(self, measurements: Measurements, rows: Rows) -> None:
        self.rows = rows
        self._measurements = measurements
        self._sizes: dict[str, ModelSize] = {}
        self._traces: dict[str, dict[int, MicroBatchTrace]] = {}
        self._decoding: dict[str, DecodingTrace] = {}

    def stages(self, config: Config) -> list[StagePlan]:
        """Return the stages of a recipe."""
        resets = config.optim.reset_at_stage
        per_epoch = steps_per_epoch(self.rows.num_rows, config.optim.global_batch_size)
        return plan_stages(config.schedule, config.removal, self.rows.lengths, per_epoch, resets)

    def size(self, config: Config) -> ModelSize:
        """Return the size of a recipe's model.

        Raises:
            UserError: If it has too few positions for the rows, or cannot be built.
        """
        key = model_key(config)
        if key not in self._sizes:
            self._check_positions(config)
            self._sizes[key] = self._measurements.size(config)
        return self._sizes[key]

    def largest_micro_batch(self, config: Config, num_gpus: int) -> LargestMicroBatch:
        """Return the micro-batch that takes most memory: all of its rows as long as the longest of any stage.

        Raises:
            UserError: If not even one such row fits the budget of tokens.
        """
        stages = self.stages(config)
        longest, labels = max(stage.max_tokens for stage in stages), max(stage.max_labels for stage in stages)
        budget = config.engine.micro_batch_tokens
        if budget < longest:
            raise UserError(
                f"engine.micro_batch_tokens ({budget}) must hold the longest training row ({longest} tokens); raise it "
                "or drop long rows with data.max_tokens."
            )
        num_rows = min(config.optim.global_batch_size, self.rows.num_rows)
        first_rank = plan_micro_batches([longest] * num_rows, num_gpus, budget)[0]
        return LargestMicroBatch(max(map(len, first_rank)), longest, labels, len(first_rank))

    def memory(self, config: Config, num_gpus: int, like: int | None = None) -> dict[str, Memory]:
        """Return what one GPU holds at the worst moment of each phase.

        Args:
            config: The recipe.
            num_gpus: That share the work.
            like: Rows of a micro-batch from which to estimate this one, where traces would take too long; None traces.

        Raises:
            UserError: If settings do not go together.
        """
        check_suits_quantization(config.engine, config.model.quantization)
        place = self.placement(config, num_gpus)
        trace = self._trace(config, num_gpus, like)
        return memory_by_phase(self.size(config), trace, self.decoding_bytes(config), place)

    def host_memory(self, config: Config, num_gpus: int) -> int:
        """Return the bytes that offloading keeps in the machine's memory for one GPU."""
        return host_bytes(self.size(config), self.placement(config, num_gpus))

    def placement(self, config: Config, num_gpus: int) -> Placement:
        """Return where and how a recipe computes."""
        return Placement(
            zero_settings(config.engine, config.optim, self.size(config).hidden_size),
            num_gpus,
            element_bytes=ELEMENT_BYTES[config.engine.precision],
            optimizer=config.optim.optimizer,
            num_micro_batches=self.largest_micro_batch(config, num_gpus).per_step,
            gradient_checkpointing=config.model.gradient_checkpointing,
        )

    def decoding_bytes(self, config: Config) -> int:
        """Return the bytes of evaluation's largest batch, its cache full; in proportion to its rows."""
        prompt = int(self.rows.lengths.prompt.max())
        written = max(stage.max_labels for stage in self.stages(config)) + EXTRA_TOKENS
        batch = config.evaluation
        num_rows = batch.batch_size if batch.num_examples is None else min(batch.batch_size, batch.num_examples)
        key = shapes_key(config)
        if key not in self._decoding:
            self._decoding[key] = self._measurements.decoding(config, prompt)
        one = self._decoding[key]
        return num_rows * (one.peak + one.cache * written // prompt)

    def _trace(self, config: Config, num_gpus: int, like: int | None) -> MicroBatchTrace:
        largest = self.largest_micro_batch(config, num_gpus)
        traces = self._traces.setdefault(shapes_key(config), {})
        wanted = largest.num_rows
        for num_rows in {wanted} if like is None or wanted in traces else {1, like}:
            if num_rows not in traces:
                traces[num_rows] = self._measurements.micro_batch(
                    config, num_rows, largest.row_length, largest.num_labels
                )
        if wanted in traces:
            return traces[wanted]
        assert like is not None
        return between(traces[1], traces[like], (wanted - 1) / max(like - 1, 1))

    def _check_positions(self, config: Config) -> None:
        """Refuse rows that take more positions than the architecture, or the recipe, has.

        Raises:
            UserError: Saying how many.
        """
        has = max(self._measurements.num_positions, config.model.num_positions or 0)
        lengths = self.rows.lengths
        cot = lengths.cot * 0 + lengths.longest_cot("token") if config.removal.keep_positions else lengths.cot
        needed = int((lengths.prompt + lengths.labels(cot)).max())
        if needed > has:
            raise UserError(
                f"data: the longest row takes {needed} positions, the model has {has}; drop long rows with "
                "data.max_tokens, raise model.num_positions, or take a model with more positions."
            )
