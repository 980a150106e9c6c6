"""What a text has grown by behind a shared prefix: the K/V of a piece of it, stored once for all that goes on from it.

A path of several pieces is a chain: each names the one that it follows. Pieces are never written again, so that a path
and everything that branched off it hold the pieces they have in common together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from .prefix import SharedPrefix


@dataclass(frozen=True, eq=False)
class SegmentLayer:
    """One layer of a segment: K/V [1, H_kv, n', D] of its last n' tokens, all that is still needed of it."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True, eq=False)
class Segment:
    """`length` tokens that follow `parent`, or, where that is None, the prefix `root` itself.

    layers: None stands for a layer that keeps no K/V of its own
    """

    root: SharedPrefix
    parent: Segment | None
    length: int
    layers: tuple[SegmentLayer | None, ...]

    @property
    def start(self) -> int:
        """Tokens between the root and this segment."""
        return 0 if self.parent is None else self.parent.end

    @property
    def end(self) -> int:
        """Tokens behind the root, this segment's included."""
        return self.start + self.length

    @property
    def nbytes(self) -> int:
        """Bytes of K and V of this segment alone."""
        return sum(t.nbytes for layer in self.layers if layer is not None for t in (layer.keys, layer.values))

    def chain(self) -> Iterator[Segment]:
        """This segment, the one that it follows, and so on."""
        segment: Segment | None = self
        while segment is not None:
            yield segment
            segment = segment.parent


Stored: TypeAlias = "SharedPrefix | Segment"  # what a row can go on from


def root_of(stored: Stored) -> SharedPrefix:
    """The prefix under it."""
    return stored.root if isinstance(stored, Segment) else stored


def segment_of(stored: Stored) -> Segment | None:
    """The last segment, or None where there is the prefix alone."""
    return stored if isinstance(stored, Segment) else None


def tail_of(stored: Stored) -> int:
    """Tokens behind the prefix."""
    return stored.end if isinstance(stored, Segment) else 0


def gathered(segment: Segment, layer: int, wanted: int) -> tuple[Tensor, Tensor]:
    """K/V [1, H_kv, n, D] of one layer: the last tokens up to the end of `segment`, at least `wanted` or all there are.

    Of a layer with a window fewer are there than have been written, but all that a later token sees.
    """
    keys: list[Tensor] = []
    values: list[Tensor] = []
    have = 0
    for piece in segment.chain():
        stored = piece.layers[layer]
        assert stored is not None
        keys.append(stored.keys)
        values.append(stored.values)
        have += stored.keys.shape[2]
        if have >= wanted or stored.keys.shape[2] < piece.length:
            break
    return torch.cat(keys[::-1], 2), torch.cat(values[::-1], 2)


def shortened(segment: Segment, end: int, windows: list[int | None]) -> Stored | None:
    """The path up to `end` tokens behind the root; None where a window has lost something that must be seen again.

    windows: of each layer in tokens, None where it sees everything
    """
    if end == 0:
        return segment.root
    piece = next(p for p in segment.chain() if p.start < end)
    if piece.end == end:
        return piece
    lost = piece.end - end
    layers: list[SegmentLayer | None] = []
    for layer, window in zip(piece.layers, windows):
        if layer is None:
            layers.append(None)
            continue
        kept = layer.keys.shape[2] - lost
        if kept < min(piece.length - lost, window - 1 if window else piece.length):
            return None
        layers.append(SegmentLayer(layer.keys[:, :, :kept].clone(), layer.values[:, :, :kept].clone()))
    return Segment(piece.root, piece.parent, piece.length - lost, tuple(layers))
