"""Keys and values of rows that come and go: each row has a slot, where the model writes in place.

A pass may write what turns out wrong. Those columns then are holes: masked from the next pass on, and closed when room
runs short. Nothing is copied from pass to pass, as a cache that grows by concatenation does.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class SlotCache:
    """A cache of ``num_slots`` rows; a pass goes over neighbouring slots, and writes the same columns in each.

    Attributes:
        cache: What the model is called with.
        is_seen: (num_slots, num_columns), the columns that hold tokens of the slot's row.
        rows: Slots of the next pass.
        begin: First column that the next pass writes; it sees what stands before.
    """

    def __init__(self, num_slots: int, num_columns: int) -> None:
        self.is_seen = np.zeros((num_slots, num_columns), dtype=bool)
        self.cache = Cache(layer_class_to_replicate=partial(_SlotLayer, self))
        self.rows, self.begin = slice(0, num_slots), 0

    @property
    def num_columns(self) -> int:
        """Tokens that a slot has room for."""
        return self.is_seen.shape[1]

    def end(self, num_slots: int) -> int:
        """Return the column behind the last that any of the first slots sees."""
        return int(np.flatnonzero(self.is_seen[:num_slots].any(axis=0))[-1]) + 1 if num_slots else 0

    def move(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """Copy slots to other slots."""
        self.is_seen[targets] = self.is_seen[sources]
        end = int(np.flatnonzero(self.is_seen[sources].any(axis=0))[-1]) + 1
        for tensor in self._tensors():
            tensor[targets, :, :end] = tensor[sources, :, :end]

    def close_holes(self, num_slots: int) -> None:
        """Bring what the first slots see to their front."""
        seen = self.is_seen[:num_slots]
        num_seen = seen.sum(axis=1)
        order = torch.from_numpy(np.argsort(~seen, axis=1, kind="stable")[:, : num_seen.max()])  # (slots, columns)
        for tensor in self._tensors():
            _, num_heads, _, head_dim = tensor.shape
            index = order.to(tensor.device)[:, None, :, None].expand(-1, num_heads, -1, head_dim)
            tensor[:num_slots, :, : order.shape[1]] = tensor[:num_slots].gather(2, index)
        self.is_seen[:num_slots] = np.arange(self.num_columns) < num_seen[:, None]

    def _tensors(self) -> list[torch.Tensor]:
        return [tensor for layer in self.cache.layers for tensor in (layer.keys, layer.values)]


class _SlotLayer(CacheLayerMixin):
    """One layer's keys and values, (slots, heads, columns, head_dim)."""

    def __init__(self, slots: SlotCache) -> None:
        super().__init__()
        self._slots = slots

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        # Zeros, since a masked column counts 0 times what it holds, which must be a number.
        num_slots, num_columns = self._slots.is_seen.shape
        self.keys, self.values = (
            states.new_zeros(num_slots, states.shape[1], num_columns, states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, begin = self._slots.rows, self._slots.begin
        end = begin + key_states.shape[2]
        self.keys[rows, :, begin:end] = key_states
        self.values[rows, :, begin:end] = value_states
        return self.keys[rows, :, :end], self.values[rows, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._slots.begin + query_length, 0

    def get_seq_length(self) -> int:
        return self._slots.begin

    def get_max_length(self) -> int:
        return self._slots.num_columns
