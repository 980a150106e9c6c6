"""One prompt's K/V, stored once, and a tail per sample.

A `SharedPrefix` holds `[1, H_kv, P, D]` per layer and is never written again. A `SharedCache` is the transformers cache
of a batch of rows, each of which continues one prefix: it stores only the rows' own tokens, in preallocated storage
that grows by doubling. Rows may have tails of different lengths and prefixes of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from . import attention
from .attention import PrefixPart, TailPart, configs_of, sharing

__all__ = ["PrefixLayer", "SharedCache", "SharedPrefix", "configs_of", "plain_cache", "sharing"]

VECTOR = 16  # columns that the CPU's kernels sum side by side
FIRST_TAIL = 64  # tokens of tail storage a row gets at first; then doubled whenever it is full


def plain_cache(model: Any) -> tuple[Any, bool]:
    """An empty cache of the model's own layer types, and whether a prompt can be fed to it in blocks.

    Recurrent states (Mamba, linear attention) are built for one prefill followed by single tokens.
    """
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    return cache, bool(cache.layers) and all(type(layer) in SHAREABLE for layer in cache.layers)


SHAREABLE = (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)


@dataclass(frozen=True, eq=False)
class PrefixLayer:
    """One layer of a prefix: the last P' of its P tokens, all that a later token can see."""

    keys: Tensor  # [1, H_kv, P', D]
    values: Tensor  # [1, H_kv, P', Dv]
    window: int | None


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """A prompt's K/V; None stands for a layer that keeps none of its own."""

    length: int
    layers: tuple[PrefixLayer | None, ...]

    @classmethod
    def of(cls, cache: Any, length: int) -> SharedPrefix:
        """The K/V of a prefilled `plain_cache` of one row; only a window's part of a larger block is copied."""
        layers: list[PrefixLayer | None] = []
        for layer in cache.layers:
            if isinstance(layer, DummyLayer):
                layers.append(None)
                continue
            window = getattr(layer, "sliding_window", None)
            keys, values = (_compact(t if window is None else t[:, :, max(0, t.shape[2] - window + 1) :])
                            for t in (layer.keys, layer.values))  # fmt: skip
            layers.append(PrefixLayer(keys, values, window))
        return cls(length, tuple(layers))

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for layer in self.layers if layer is not None for t in (layer.keys, layer.values))

    def fork(self, rows: int) -> SharedCache:
        """A cache of `rows` rows that continue this prefix; costs no copy of it."""
        cache = SharedCache(self)
        cache.add(self, rows)
        return cache


def _compact(t: Tensor) -> Tensor:
    return t.clone() if t.untyped_storage().nbytes() > t.nbytes else t.contiguous()


class SharedCache(Cache):
    """The rows' tails, and which prefix each row continues. `template` is any prefix of the same model."""

    def __init__(self, template: SharedPrefix) -> None:
        self.prefixes: list[SharedPrefix] = []
        self.group: list[int] = []  # row -> index into prefixes
        self.lengths: list[int] = []  # row -> tokens in its tail
        self._written: set[int] = set()  # layers that the running forward pass has reached
        self._plans: dict[int | None, _Plan] = {}
        layers: list[Any] = [
            DummyLayer() if layer is None else TailLayer(self, i, layer.window)
            for i, layer in enumerate(template.layers)
        ]
        self._tails = [layer for layer in layers if isinstance(layer, TailLayer)]
        super().__init__(layers=layers)

    def add(self, prefix: SharedPrefix, rows: int) -> None:
        """Append `rows` rows with empty tails."""
        if prefix not in self.prefixes:
            self.prefixes.append(prefix)
        self.group += [self.prefixes.index(prefix)] * rows
        self.lengths += [0] * rows
        self._written.clear()

    def keep(self, order: Sequence[int]) -> None:
        """Row i becomes what row order[i] was; the other rows leave, and so do prefixes without a row."""
        for layer in self._tails:
            layer.keep(order)
        self.lengths = [self.lengths[i] for i in order]
        group = [self.group[i] for i in order]
        used = sorted(set(group))
        self.prefixes = [self.prefixes[g] for g in used]
        self.group = [used.index(g) for g in group]
        self._written.clear()

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Write the new tokens' K/V; returns the tail (for our attention) or everything (for any other)."""
        if not self._written or layer_idx in self._written:  # a forward pass begins (or again, after one that failed)
            self._written = set()
            self._plans = {}
            attention.forget()
        layer: Any = self.layers[layer_idx]
        plan = self._plans.get(layer.window)
        if plan is None:
            plan = self._plans[layer.window] = _Plan(self, layer.window, key_states)
        result = layer.write(key_states, value_states, plan)
        self._written.add(layer_idx)
        if len(self._written) == len(self._tails):
            self.lengths = [length + key_states.shape[2] for length in self.lengths]
            self._written = set()
        return result

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.keep(beam_idx.tolist())

    @property
    def positions(self) -> list[int]:
        """Each row's next position: its prefix and its tail."""
        return [self.prefixes[g].length + length for g, length in zip(self.group, self.lengths)]

    @property
    def nbytes(self) -> int:
        """Bytes of the tails' storage; the prefixes are counted by `SharedPrefix.nbytes`."""
        return sum(layer.nbytes for layer in self._tails)


class _Plan:
    """What the rows see in this step, in a layer with this window: made once for all layers that share it.

    Query i of row b stands at t = lengths[b] + i of its tail. It sees tail token j if t - W < j <= t, and prefix
    token p if p > P + t - W. Tokens that no row sees are sliced away, and a mask is made only if the rows differ.
    """

    def __init__(self, cache: SharedCache, window: int | None, like: Tensor) -> None:
        n, lengths, device = like.shape[2], cache.lengths, like.device
        if like.shape[0] != len(lengths):
            raise ValueError(f"the batch must have the cache's {len(lengths)} rows, got {like.shape[0]}")
        self.n = n
        self.is_uniform = len(set(lengths)) == 1
        self.start, self.end = min(lengths), max(lengths) + n
        self.lo = 0 if window is None else max(0, self.start - window + 1)
        # Whole vectors of columns: a row's sums are then the same whoever else is in the batch.
        self.stop = -(-self.end // VECTOR) * VECTOR if device.type == "cpu" else self.end
        # t: [B, n], or [1, n] for rows of one length
        at = torch.tensor(lengths[:1] if self.is_uniform else lengths, device=device)[:, None]
        at = at + torch.arange(n, device=device)
        self.columns = at
        self.mask = None
        if not (self.is_uniform and n == 1 and self.stop == self.end):
            key = torch.arange(self.lo, self.stop, device=device)
            self.mask = _additive(_visible(key, at, window), like.dtype).expand(len(lengths), -1, -1)
        # per prefix: its number, its rows, how many of its last tokens are seen, the mask, the blind queries
        self.prefixes: list[tuple[int, Tensor | None, int | None, Tensor | None, Tensor | None]] = []
        for g, prefix in enumerate(cache.prefixes):
            rows = [b for b, of in enumerate(cache.group) if of == g and (window is None or lengths[b] < window - 1)]
            if not rows:
                continue
            index = None if len(rows) == len(lengths) else torch.tensor(rows, device=device)
            seen = mask = blind = None
            if window is not None:
                shortest = min(lengths[b] for b in rows)
                seen = min(prefix.length, window - 1 - shortest)
                if not (self.is_uniform and n == 1):
                    key = torch.arange(-seen, 0, device=device)
                    rows_at = at.expand(len(lengths), n)
                    visible = _visible(key, rows_at if index is None else rows_at[index], window)
                    if n > 1:
                        blind = ~visible.any(-1)
                        visible |= blind[..., None]
                    mask = _additive(visible, like.dtype)
            self.prefixes.append((g, index, seen, mask, blind))


def _visible(key: Tensor, at: Tensor, window: int | None) -> Tensor:
    """[B, n, S] bool; positions count from the end of the prefix, so that the prefix's own are negative."""
    seen = key <= at[..., None]
    return seen if window is None else seen & (key > at[..., None] - window)


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -torch.inf)


class TailLayer(CacheLayerMixin):
    """One layer's tails: storage [rows, H_kv, capacity, D], of which the first B rows and S columns are in use."""

    is_compileable = False
    keys: Tensor  # type: ignore[assignment]
    values: Tensor  # type: ignore[assignment]

    def __init__(self, cache: SharedCache, index: int, window: int | None) -> None:
        super().__init__()
        self.cache = cache
        self.index = index
        self.window = window
        self.is_sliding = window is not None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (
            t.new_empty(t.shape[0], t.shape[1], 0, t.shape[3]) for t in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a tail is written by its cache, which knows the rows")

    def write(self, k: Tensor, v: Tensor, plan: _Plan) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(k, v)
        B, end = k.shape[0], plan.end
        self.keys, self.values = _room(self.keys, B, plan.stop), _room(self.values, B, plan.stop)
        if plan.is_uniform:
            self.keys[:B, :, plan.start : end] = k
            self.values[:B, :, plan.start : end] = v
        else:
            row = torch.arange(B, device=k.device)[:, None]
            self.keys[row, :, plan.columns] = k.transpose(1, 2)
            self.values[row, :, plan.columns] = v.transpose(1, 2)
        if not attention.is_sharing():
            return self._everything(B, end)
        part = TailPart(
            self.keys[:B, :, plan.lo : plan.stop], self.values[:B, :, plan.lo : plan.stop], plan.mask, self.window
        )
        for g, rows, seen, mask, blind in plan.prefixes:
            layer = self.cache.prefixes[g].layers[self.index]
            assert layer is not None
            first = 0 if seen is None else layer.keys.shape[2] - seen
            part.prefixes.append(PrefixPart(layer.keys[:, :, first:], layer.values[:, :, first:], rows, mask, blind))
        attention.note(part)
        return part.keys, part.values

    def _everything(self, B: int, end: int) -> tuple[Tensor, Tensor]:
        """Prefix and tail of every row, copied together: slow and right, for attention that is not ours."""
        if len(self.cache.prefixes) != 1 or len(set(self.cache.lengths)) != 1:
            raise attention.SharingError(
                "rows with different prefixes or tail lengths need the shared attention; step them under sharing(model)"
            )
        layer = self.cache.prefixes[0].layers[self.index]
        assert layer is not None
        return (
            torch.cat([layer.keys.expand(B, -1, -1, -1), self.keys[:B, :, :end]], 2),
            torch.cat([layer.values.expand(B, -1, -1, -1), self.values[:B, :, :end]], 2),
        )

    def keep(self, order: Sequence[int]) -> None:
        if not self.is_initialized:
            return
        moves = [(i, source) for i, source in enumerate(order) if i != source and source < self.keys.shape[0]]
        if all(source >= len(order) for _, source in moves):  # holes filled from the end: nothing is overwritten
            for i, source in moves:
                used = self.cache.lengths[source]
                self.keys[i, :, :used] = self.keys[source, :, :used]
                self.values[i, :, :used] = self.values[source, :, :used]
        else:
            last = self.keys.shape[0] - 1  # rows added since the last step have no storage yet, and an empty tail
            index = torch.tensor([min(i, last) for i in order], device=self.keys.device)
            self.keys, self.values = self.keys[index], self.values[index]
        if not order:
            self.keys, self.values = self.keys[:0].clone(), self.values[:0].clone()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        prefix = self.cache.prefixes[0]
        layer = prefix.layers[self.index]
        assert layer is not None
        kept = layer.keys.shape[2]
        return kept + max(self.cache.lengths) + query_length, prefix.length - kept

    def get_seq_length(self) -> int:
        return max(self.cache.positions, default=0)

    def get_max_length(self) -> int:
        return -1

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes if self.is_initialized else 0


def _room(storage: Tensor, rows: int, columns: int) -> Tensor:
    """The storage itself, or a larger one with its contents: exactly the rows needed, and twice the columns."""
    have_rows, heads, have_columns, width = storage.shape
    if rows <= have_rows and columns <= have_columns:
        return storage
    capacity = have_columns
    while capacity < columns:
        capacity = max(FIRST_TAIL, 2 * capacity)
    # Zeros, not empty: a masked column still enters the product with V, and 0 * NaN is NaN.
    larger = storage.new_zeros(max(rows, have_rows), heads, capacity, width)
    larger[:have_rows, :, :have_columns] = storage
    return larger
