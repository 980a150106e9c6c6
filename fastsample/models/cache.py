"""The transformers cache of a batch whose rows continue shared prefixes: it stores only the rows' own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from ..shared_prefix.attention import PrefixPart, TailPart
from ..shared_prefix.prefix import PrefixLayer, SharedPrefix, lengths_of
from ..shared_prefix.segments import Segment, SegmentLayer, Stored, gathered, root_of, segment_of, tail_of
from ..shared_prefix.tails import Tails, fills_holes
from ..shared_prefix.visibility import Rows, View
from . import compat
from .attention import SharingError, is_stepping
from .handed_out import HandedOut


def prefix_of(cache: Any, length: int) -> SharedPrefix:
    """The K/V of a prefilled `compat.plain_cache` of one row, `length` tokens long."""
    return SharedPrefix(
        length,
        tuple(
            None if compat.holds_nothing(layer) else PrefixLayer.of(layer.keys, layer.values, compat.window_of(layer))
            for layer in cache.layers
        ),
    )


_names = count()


@dataclass(frozen=True)
class CacheRow:
    """A row of the batch.

    prefix: that it continues; length: tokens in its tail; base: what its tail began with, of an earlier row
    name:   of this row alone, for ever
    """

    prefix: SharedPrefix
    length: int = 0
    base: Segment | None = None
    name: int = field(default_factory=lambda: next(_names))


class _Batch:
    """The rows, and what follows from them. Replaced as a whole: no interrupt leaves half of it changed."""

    def __init__(self, rows: Sequence[CacheRow]) -> None:
        self.rows = tuple(rows)
        self.lengths = [row.length for row in rows]
        self.prefixes = list({id(row.prefix): row.prefix for row in rows}.values())
        number = {id(prefix): g for g, prefix in enumerate(self.prefixes)}
        self.group = [number[id(row.prefix)] for row in rows]


class SharedCache(HandedOut, Cache):
    """The rows' tails, and which prefix each row continues. `template` is any prefix of the same model.

    The model's own attention may run over it too, slowly, as long as all rows have one prefix and one length.
    """

    def __init__(self, template: SharedPrefix) -> None:
        HandedOut.__init__(self)
        self._batch = _Batch(())
        self._torn: str | None = None  # why nothing can be done with it any more
        self._written: set[int] = set()  # layers that the running forward pass has reached
        self._views: dict[int | None, View] = {}  # by window
        layers: list[Any] = [
            compat.EmptyLayer() if layer is None else TailLayer(self, i, layer.window)
            for i, layer in enumerate(template.layers)
        ]
        self._tails = [layer for layer in layers if isinstance(layer, TailLayer)]
        Cache.__init__(self, layers=layers)

    @classmethod
    def fork(cls, stored: Stored, rows: int) -> SharedCache:
        """A cache of `rows` rows that continue a prefix or a path; costs no copy of the prefix."""
        cache = cls(root_of(stored))
        cache.add(stored, rows)
        return cache

    @property
    def rows(self) -> tuple[CacheRow, ...]:
        """The rows, in the order of the batch."""
        return self._batch.rows

    @property
    def prefixes(self) -> list[SharedPrefix]:
        """The prefixes that the rows continue."""
        return self._batch.prefixes

    @property
    def lengths(self) -> list[int]:
        """Tokens in the tail of each row."""
        return self._batch.lengths

    @property
    def group(self) -> list[int]:
        """The number of the prefix that each row continues."""
        return self._batch.group

    def add(self, stored: Stored, rows: int) -> None:
        """Append `rows` rows: with empty tails behind a prefix, with a copy of a path's own tokens behind a path."""
        before, prefix, segment, length = self._batch, root_of(stored), segment_of(stored), tail_of(stored)
        first = len(before.rows)
        for layer in self._tails:
            layer.clear(first)
            if segment is not None:
                wanted = length if layer.window is None else layer.window - 1
                layer.fill(first, rows, length, *gathered(segment, layer.index, wanted), before.lengths)
        self._batch = _Batch((*before.rows, *(CacheRow(prefix, length, segment) for _ in range(rows))))

    def keep(self, order: Sequence[int]) -> None:
        """Row i becomes what row order[i] was; the other rows leave, and so do prefixes without a row.

        Where rows leave and holes are filled from the end, an interrupted call can be made again.
        """
        batch = self._batch
        if not fills_holes(order):
            self._torn = "its rows were being put into another order when it was interrupted; make a new one"
        for layer in self._tails:
            layer.keep(order, batch.lengths)
        self._batch = _Batch([batch.rows[i] for i in order])
        self._torn = None

    def rewind(self, lengths: Sequence[int]) -> None:
        """Say how many tokens the rows' tails truly have, before a step: what was written behind them is forgotten."""
        if list(lengths) != self.lengths:
            self._batch = _Batch([replace(row, length=length) for row, length in zip(self.rows, lengths, strict=True)])
        self._written = set()

    def copied(self, row: int) -> Stored:
        """What a row has grown to, as a path that other rows can go on from; its own tokens are copied out."""
        r = self.rows[row]
        start = 0 if r.base is None else r.base.end
        if r.length == start:
            return r.base or r.prefix
        layers = [SegmentLayer(*layer.taken(row, start, r.length)) if isinstance(layer, TailLayer) else None
                  for layer in self.layers]  # fmt: skip
        return Segment(r.prefix, r.base, r.length - start, tuple(layers))

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Write the new tokens' K/V; returns the tail (for our attention) or everything (for any other)."""
        if self._torn is not None:
            raise RuntimeError(f"a shared cache cannot be stepped: {self._torn}")
        if not self._written or layer_idx in self._written:  # a forward pass begins (or again, after one that failed)
            self._written = set()
            self._views = {}
            self.forget()
        layer, batch = cast(TailLayer, self.layers[layer_idx]), self._batch
        view = self._views.get(layer.window)
        if view is None:
            rows = Rows(batch.lengths, batch.group, lengths_of(batch.prefixes))
            ring = layer.ring_for(key_states.shape[2])
            view = self._views[layer.window] = View(rows, layer.window, ring, key_states)
        layer.write(key_states, value_states, view, batch.lengths)
        result = self._part(layer, view) if is_stepping(self) else layer.everything(view)
        self._written.add(layer_idx)
        if len(self._written) == len(self._tails):
            self.advance(key_states.shape[2])
        return result

    def advance(self, n: int) -> None:
        """Every row's tail has n more tokens: all its layers have been written to."""
        self._batch = _Batch([replace(row, length=row.length + n) for row in self.rows])
        self._written = set()

    def reserve(self, rows: int, columns: int) -> None:
        """Storage for so many rows and tokens of a tail, see `Tails.reserve`."""
        for layer in self._tails:
            layer.reserve(layer.stored(0), rows, columns, self.lengths)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """transformers' name for `keep`."""
        self.keep(beam_idx.tolist())

    @property
    def positions(self) -> list[int]:
        """Each row's next position: its prefix and its tail."""
        return [row.prefix.length + row.length for row in self.rows]

    @property
    def nbytes(self) -> int:
        """Bytes of the tails' storage; the prefixes are counted by `SharedPrefix.nbytes`."""
        return sum(layer.nbytes for layer in self._tails)

    def _part(self, layer: TailLayer, view: View) -> tuple[Tensor, Tensor]:
        B, S = len(self.lengths), view.columns
        part = TailPart(layer.keys[:B, :, :S], layer.values[:B, :, :S], view.mask, layer.window)
        for seen in view.prefixes:
            stored = layer.stored(seen.number)
            first = 0 if seen.last is None else stored.keys.shape[2] - seen.last
            keys, values = stored.keys[:, :, first:], stored.values[:, :, first:]
            part.prefixes.append(PrefixPart(keys, values, seen.rows, seen.mask, seen.blind))
        return self.hand_out(part)


class TailLayer(Tails, CacheLayerMixin):  # type: ignore[misc]  # K/V are None there before the first step
    """A layer's tails, with what transformers asks of a cache layer in any release."""

    is_compileable = False

    def __init__(self, cache: SharedCache, index: int, window: int | None) -> None:
        CacheLayerMixin.__init__(self)
        Tails.__init__(self, window)
        self.cache = cache
        self.index = index
        self.is_sliding = window is not None

    def stored(self, number: int) -> PrefixLayer:
        """This layer of prefix `number`."""
        layer = self.cache.prefixes[number].layers[self.index]
        assert layer is not None
        return layer

    def everything(self, view: View) -> tuple[Tensor, Tensor]:
        """Prefix and tail of every row, copied together: slow and right, for attention that is not ours."""
        cache = self.cache
        if len(cache.prefixes) != 1 or len(set(cache.lengths)) != 1:
            raise SharingError(
                "rows with different prefixes or tail lengths need the shared attention; step them by a LocalEngine"
            )
        B = len(cache.lengths)
        keys, values, is_prefix_out_of_sight = self.in_order(B, view.end)
        if is_prefix_out_of_sight:
            return keys, values
        stored = self.stored(0)
        return _behind(stored.keys, keys), _behind(stored.values, values)

    def write(self, k: Tensor, v: Tensor, view: View, lengths: Sequence[int]) -> None:
        """As `Tails.write`; transformers looks at `is_initialized`."""
        super().write(k, v, view, lengths)
        self.is_initialized = True

    def reserve(self, like: PrefixLayer, rows: int, columns: int, lengths: Sequence[int]) -> None:
        """As `Tails.reserve`."""
        super().reserve(like, rows, columns, lengths)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the first `write` makes the storage."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Never called: a tail is written by its cache, which knows the rows."""
        raise AssertionError("a tail is written by its cache, which knows the rows")

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """(keys that a query may see, position of the first of them), for masks of attention that is not ours."""
        n = compat.number_of_queries(query_length)
        prefix, kept = self.cache.prefixes[0], self.stored(0).keys.shape[2]
        end, ring = max(self.cache.lengths) + n, self.ring_for(n)
        if ring is not None and end > ring:
            return ring, prefix.length + end - ring
        return kept + end, prefix.length - kept

    def get_seq_length(self, *_: Any) -> int:
        """Tokens of the longest row, its prefix included."""
        return max(self.cache.positions, default=0)

    def get_query_offset(self, *_: Any) -> int:
        """The position of the next token."""
        return self.get_seq_length()

    def get_max_length(self, *_: Any) -> int:
        """-1: a tail grows without a limit."""
        return -1

    get_max_cache_shape = get_max_length  # its name up to 5.22


def _behind(prefix: Tensor, tails: Tensor) -> Tensor:
    """[B, H_kv, P' + S, D]: the prefix in front of every row's tail."""
    return torch.cat([prefix.expand(tails.shape[0], -1, -1, -1), tails], 2)
