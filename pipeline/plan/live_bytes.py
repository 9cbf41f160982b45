"""Counts the bytes of tensors that are alive, as the operations run that make them."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """While active, knows what every storage that an operation made weighs, until it is freed.

    Works on real tensors, where it counts what an allocator without caching would hold, and on fake ones. A view shares
    its storage and counts once. What a kernel allocates for itself and returns to nobody is not seen.

    Attributes:
        live: Bytes alive by kind; a new storage is of the kind that ``kind_of`` gives its first tensor.
    """

    def __init__(
        self,
        kind_of: Callable[[torch.Tensor], str],
        ignore: Iterable[torch.Tensor] = (),
        on_change: Callable[[dict[str, int]], None] = lambda live: None,
    ) -> None:
        """Start with nothing alive.

        Args:
            kind_of: Kind of a tensor whose storage is new.
            ignore: Tensors that were there before and are not counted, such as the weights.
            on_change: Called with ``live`` after each operation that made a storage.
        """
        super().__init__()
        self._kind_of, self._on_change = kind_of, on_change
        self.live: dict[str, int] = {"": 0}
        self._known: dict[int, tuple[weakref.ref, str, int]] = {}
        for tensor in ignore:
            self._remember(tensor.untyped_storage(), "", 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then count what it made."""
        result = func(*args, **(kwargs or {}))
        made = [self._count(leaf) for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if any(made):
            self._on_change(self.live)
        return result

    def release(self, tensor: torch.Tensor) -> int:
        """Stop counting a tensor's storage, which is kept from now on as something else; returns its bytes."""
        storage = tensor.untyped_storage()
        size = self._forget(storage._cdata)
        self._remember(storage, "", 0)
        return size

    def _count(self, tensor: torch.Tensor) -> bool:
        storage = tensor.untyped_storage()
        if storage._cdata in self._known or tensor.device.type == "meta":  # a fake tensor names the device it plays
            return False
        self._remember(storage, self._kind_of(tensor), storage.nbytes())
        return True

    def _remember(self, storage: torch.UntypedStorage, kind: str, size: int) -> None:
        key = storage._cdata  # the address, which another storage may have when this one is gone
        self._known[key] = (weakref.ref(storage, lambda _: self._forget(key)), kind, size)
        self.live[kind] = self.live.get(kind, 0) + size

    def _forget(self, key: int) -> int:
        _, kind, size = self._known.pop(key, (None, "", 0))
        self.live[kind] -= size
        return size
