"""What is measured of one architecture, on this machine: now, or by a plan before."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from pipeline.config import Config
from pipeline.model_size import ModelSize
from pipeline.plan.architecture import Architecture
from pipeline.plan.keys import model_key, shapes_key
from pipeline.plan.peaks import DecodingTrace, MicroBatchTrace, Peak
from pipeline.plan.store import Store

if TYPE_CHECKING:
    from pipeline.plan.measuring import Measuring


class Measurements:
    """Sizes and traces of models of one architecture.

    Attributes:
        num_positions: Of the architecture as it is.
    """

    def __init__(self, architecture: Architecture, store: Store) -> None:
        self.num_positions = architecture.num_positions
        self._architecture, self._store = architecture, store
        self._made: Measuring | None = None

    def size(self, config: Config) -> ModelSize:
        """Return the size of a recipe's model.

        Raises:
            UserError: If it cannot be built.
        """
        key = ("size", self._architecture.as_json, model_key(config))
        found = self._store.recall(key, lambda: asdict(self._measuring().size(config)))
        return ModelSize(**{**found, "parameter_sizes": tuple(found["parameter_sizes"])})

    def micro_batch(self, config: Config, num_rows: int, row_length: int, num_labels: int) -> MicroBatchTrace:
        """Return the worst moments of a micro-batch of rows that are all alike.

        Args:
            config: The recipe.
            num_rows: Rows.
            row_length: Tokens in each.
            num_labels: Labels in each.
        """
        shape = (num_rows, row_length, num_labels)
        key = ("micro-batch", self._architecture.as_json, shapes_key(config), shape)
        found = self._store.recall(key, lambda: asdict(self._measuring().micro_batch(config, *shape)))
        return MicroBatchTrace(**{moment: Peak(**peak) for moment, peak in found.items()})

    def decoding(self, config: Config, prompt_length: int) -> DecodingTrace:
        """Return what decoding one prompt of so many tokens begins with."""
        key = ("decoding", self._architecture.as_json, shapes_key(config), prompt_length)
        return DecodingTrace(
            **self._store.recall(key, lambda: asdict(self._measuring().decoding(config, prompt_length)))
        )

    def _measuring(self) -> "Measuring":
        if self._made is None:
            from pipeline.plan.measuring import Measuring  # torch and models: not where all was measured before

            self._made = Measuring(self._architecture.build())
        return self._made
