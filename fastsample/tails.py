"""The rows' own K/V in one layer: storage that starts small, doubles as it fills, and stops at a layer's window.

Without a window, a tail's token t stands in column t. With a window W the columns are a ring: token t stands in column
t mod R, where R is W in whole vectors, so that a tail of any length takes no more than its window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from . import attention
from .attention import PrefixPart, TailPart
from .memory import allocated, ring_of
from .sight import Sight

if TYPE_CHECKING:
    from .prefix_cache import SharedCache


class TailLayer(CacheLayerMixin):
    """One layer's tails: storage [rows, H_kv, capacity, D], of which the first B rows are in use."""

    is_compileable = False
    keys: Tensor  # type: ignore[assignment]
    values: Tensor  # type: ignore[assignment]

    def __init__(self, cache: SharedCache, index: int, window: int | None) -> None:
        super().__init__()
        self.cache = cache
        self.index = index
        self.window = window
        self.ring = None if window is None else ring_of(window)
        self.is_sliding = window is not None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (
            t.new_empty(t.shape[0], t.shape[1], 0, t.shape[3]) for t in (key_states, value_states)
        )
        self.is_initialized = True

    def ring_for(self, queries: int) -> int | None:
        """The ring that a step of so many new tokens needs; it never shrinks."""
        return None if self.window is None or self.ring is None else max(self.ring, ring_of(self.window, queries))

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a tail is written by its cache, which knows the rows")

    def write(self, k: Tensor, v: Tensor, sight: Sight) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(k, v)
        B = k.shape[0]
        self._make_room(B, sight.columns, sight.ring)
        if sight.is_uniform and k.shape[2] == 1:
            place = (sight.end - 1) % (sight.ring or sight.end)
            self.keys[:B, :, place] = k[:, :, 0]
            self.values[:B, :, place] = v[:, :, 0]
        else:
            row = torch.arange(B, device=k.device)[:, None]
            self.keys[row, :, sight.places] = k.transpose(1, 2)
            self.values[row, :, sight.places] = v.transpose(1, 2)
        if not attention.is_sharing():
            return self._everything(B, sight.end)
        S = sight.columns
        part = TailPart(self.keys[:B, :, :S], self.values[:B, :, :S], sight.mask, self.window)
        for g, rows, seen, mask, blind in sight.prefixes:
            layer = self.cache.prefixes[g].layers[self.index]
            assert layer is not None
            first = 0 if seen is None else layer.keys.shape[2] - seen
            part.prefixes.append(PrefixPart(layer.keys[:, :, first:], layer.values[:, :, first:], rows, mask, blind))
        attention.note(part)
        return part.keys, part.values

    def keep(self, order: Sequence[int]) -> None:
        """Row i becomes what row order[i] was; the cache's lengths are still those of before."""
        if not self.is_initialized:
            return
        moves = [(i, source) for i, source in enumerate(order) if i != source and source < self.keys.shape[0]]
        if all(source >= len(order) for _, source in moves):  # holes filled from the end: nothing is overwritten
            for i, source in moves:
                used = self.cache.lengths[source]  # or all columns, where a ring has fewer
                self.keys[i, :, :used] = self.keys[source, :, :used]
                self.values[i, :, :used] = self.values[source, :, :used]
        else:
            last = self.keys.shape[0] - 1  # rows added since the last step have no storage yet, and an empty tail
            index = torch.tensor([min(i, last) for i in order], device=self.keys.device)
            self.keys, self.values = self.keys[index], self.values[index]
        if not order:
            self.keys, self.values = self.keys[:0].clone(), self.values[:0].clone()

    def _make_room(self, rows: int, columns: int, ring: int | None) -> None:
        """Storage for so many rows and columns: exactly the rows needed, twice the columns, at most the ring's."""
        have_rows, _, have, _ = self.keys.shape
        if rows > have_rows or columns > have:
            places = None
            if self.ring != ring and max(self.cache.lengths) > have:  # what has gone round the old ring moves
                places = _places(self.cache.lengths[:have_rows], have, ring, self.keys.device)
            size = max(rows, have_rows), max(have, allocated(columns, ring))
            self.keys, self.values = _larger(self.keys, *size, places), _larger(self.values, *size, places)
        self.ring = ring

    def _everything(self, B: int, end: int) -> tuple[Tensor, Tensor]:
        """Prefix and tail of every row, copied together: slow and right, for attention that is not ours."""
        if len(self.cache.prefixes) != 1 or len(set(self.cache.lengths)) != 1:
            raise attention.SharingError(
                "rows with different prefixes or tail lengths need the shared attention; step them under sharing(model)"
            )
        if self.ring is not None and end > self.ring:  # the prefix is out of sight
            return self.keys[:B].roll(-end % self.ring, 2), self.values[:B].roll(-end % self.ring, 2)
        layer = self.cache.prefixes[0].layers[self.index]
        assert layer is not None
        return (
            torch.cat([layer.keys.expand(B, -1, -1, -1), self.keys[:B, :, :end]], 2),
            torch.cat([layer.values.expand(B, -1, -1, -1), self.values[:B, :, :end]], 2),
        )

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        prefix = self.cache.prefixes[0]
        layer = prefix.layers[self.index]
        assert layer is not None
        kept, end, ring = layer.keys.shape[2], max(self.cache.lengths) + query_length, self.ring_for(query_length)
        if ring is not None and end > ring:
            return ring, prefix.length + end - ring
        return kept + end, prefix.length - kept

    def get_seq_length(self) -> int:
        return max(self.cache.positions, default=0)

    def get_max_length(self) -> int:
        return -1

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes if self.is_initialized else 0


def _places(lengths: Sequence[int], old: int, new: int | None, device: torch.device) -> Tensor:
    """[rows, old] int64: the column of a ring of `new` columns for what stands in each column of one of `old`."""
    assert new is not None
    newest = torch.tensor(lengths, device=device)[:, None] - 1
    return (newest - (newest - torch.arange(old, device=device)) % old) % new


def _larger(storage: Tensor, rows: int, columns: int, places: Tensor | None) -> Tensor:
    """Storage of more rows or columns, with the old one's contents in the same columns or in those of `places`."""
    have_rows, heads, have, width = storage.shape
    # Zeros, not empty: a masked column still enters the product with V, and 0 * NaN is NaN.
    larger = storage.new_zeros(rows, heads, columns, width)
    if places is None:
        larger[:have_rows, :, :have] = storage
    else:
        row = torch.arange(len(places), device=storage.device)[:, None]
        larger[row, :, places] = storage[: len(places)].transpose(1, 2)
    return larger
