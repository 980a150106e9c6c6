"""One prompt's K/V, stored once, and a tail per sample.

A `SharedPrefix` holds `[1, H_kv, P, D]` per layer and is never written again. A `SharedCache` is the transformers cache
of a batch of rows, each of which continues one prefix: it stores only the rows' own tokens (`tails`). Rows may have
tails of different lengths and prefixes of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from . import attention
from .attention import configs_of, sharing
from .sight import Sight
from .tails import TailLayer

__all__ = ["PrefixLayer", "SharedCache", "SharedPrefix", "configs_of", "plain_cache", "sharing"]


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
        self._sights: dict[int | None, Sight] = {}
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
            self._sights = {}
            attention.forget()
        layer: Any = self.layers[layer_idx]
        sight = self._sights.get(layer.window)
        if sight is None:
            ring = layer.ring_for(key_states.shape[2])
            sight = self._sights[layer.window] = Sight(self, layer.window, ring, key_states)
        result = layer.write(key_states, value_states, sight)
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
