"""A prompt's K/V, stored once and never written again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class PrefixLayer:
    """One layer of a prefix: the last P' of its P tokens, all that a later token can see.

    keys, values: [1, H_kv, P', D] and [1, H_kv, P', Dv]; window: of the layer in tokens, None where it sees everything
    """

    keys: Tensor
    values: Tensor
    window: int | None

    @classmethod
    def of(cls, keys: Tensor, values: Tensor, window: int | None) -> PrefixLayer:
        """The layer after a prefill; only a window's part of a larger block is copied."""
        first = 0 if window is None else max(0, keys.shape[2] - window + 1)
        return cls(_compact(keys[:, :, first:]), _compact(values[:, :, first:]), window)


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """A prompt's K/V: its length in tokens and its layers; None stands for a layer that keeps none of its own."""

    length: int
    layers: tuple[PrefixLayer | None, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of K and V together."""
        return sum(t.nbytes for layer in self.layers if layer is not None for t in (layer.keys, layer.values))


def lengths_of(prefixes: Iterable[SharedPrefix]) -> list[int]:
    """The prefixes' lengths in tokens."""
    return [prefix.length for prefix in prefixes]


def _compact(t: Tensor) -> Tensor:
    return t.clone() if t.untyped_storage().nbytes() > t.nbytes else t.contiguous()
