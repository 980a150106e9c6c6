"""A shared cache whose rows, lengths and prefixes lie in tensors during a step, so that a CUDA graph can replay it."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import Cache

from ..shared_prefix.decode import Directory, FixedPart, tiles_of
from ..shared_prefix.prefix import PrefixLayer
from ..torch_ops import decode
from .cache import SharedCache, TailLayer
from .handed_out import HandedOut


class Sizes(NamedTuple):
    """Of the tensors of a step, each a power of two: one that is large enough for a batch serves all smaller ones.

    rows, prefixes; tiles: groups of rows of one prefix; parts: of the longest prefix
    """

    rows: int
    prefixes: int
    tiles: int
    parts: int

    @classmethod
    def of(cls, cache: SharedCache) -> Sizes:
        """The smallest that hold the cache's rows."""
        longest = max(
            (layer.keys.shape[2] for p in cache.prefixes for layer in p.layers if layer is not None), default=0
        )
        wanted = len(cache.rows), len(cache.prefixes), len(tiles_of(cache.group)), decode.parts(longest)
        return cls(*(1 << max(0, n - 1).bit_length() for n in wanted))


class FixedCache(HandedOut, Cache):
    """The tails of a `SharedCache` for steps of one token: their storage is its own, what changes lies in tensors.

    lengths: [R] int64, tokens in each tail before the step
    """

    def __init__(self, shared: SharedCache, sizes: Sizes) -> None:
        HandedOut.__init__(self)
        self.shared, self.sizes = shared, sizes
        self.storage = storage_of(shared)
        device = self.storage[0][0].device
        self.lengths = torch.zeros(sizes.rows, dtype=torch.int64, device=device)
        self.directory = Directory(sizes.rows, sizes.prefixes, sizes.tiles, device)
        self._numbers = torch.arange(sizes.rows, device=device)
        self._tables = torch.zeros(len(shared.layers), sizes.prefixes, decode.ENTRY, dtype=torch.int64, device=device)
        self._stored: list[list[PrefixLayer]] = [[] for _ in shared.layers]
        self._places: dict[int, Tensor] = {}  # by columns of a tail: where this step's token goes
        Cache.__init__(self, layers=shared.layers)

    def look(self) -> None:
        """Take over which row continues which prefix; the prefixes live as long as they can be read."""
        shared = self.shared
        self.directory.set(shared.group)
        tables = self._tables.to("cpu", copy=True) if not self._tables.is_meta else self._tables
        for index, layer in enumerate(shared.layers):
            if isinstance(layer, TailLayer):
                self._stored[index] = [layer.stored(number) for number in range(len(shared.prefixes))]
                tables[index].copy_(self.directory.table(self._stored[index]))
        self._tables.copy_(tables)

    def begin(self) -> None:
        """To be called before each forward pass."""
        self.forget()
        self._places = {}

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Write the new tokens' K/V, [R, H_kv, 1, D]; returns the tails."""
        layer = cast(TailLayer, self.layers[layer_idx])
        keys, values = layer.keys[: self.sizes.rows], layer.values[: self.sizes.rows]
        columns = keys.shape[2]
        if columns not in self._places:
            self._places[columns] = self.lengths % columns
        place = self._places[columns]
        keys[self._numbers, :, place] = key_states[:, :, 0]
        values[self._numbers, :, place] = value_states[:, :, 0]
        return self.hand_out(
            FixedPart(keys, values, self.lengths, self.directory, self._tables[layer_idx], self.sizes.parts,
                      self._stored[layer_idx], layer.window)
        )  # fmt: skip


def storage_of(cache: SharedCache) -> list[tuple[Tensor, Tensor]]:
    """Where the tails of each layer lie."""
    return [(layer.keys, layer.values) for layer in cache.layers if isinstance(layer, TailLayer)]
