"""What each row sees in one step: columns of its tail, tokens of its prefix, and masks where the rows differ.

A tail's token t stands in column t, or, in a layer with a window, in column t mod R of a ring of R columns: the window
and no more. Query i of row b stands at t = lengths[b] + i of its tail. It sees the tail's token j if t - W < j <= t,
and the token p of the prefix if p > P + t - W.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .sizes import whole


@dataclass(frozen=True)
class Rows:
    """Who is in the batch before a step.

    lengths:  tokens in the tail of each row
    group:    the number of the prefix that each row continues
    prefixes: tokens of each prefix
    """

    lengths: Sequence[int]
    group: Sequence[int]
    prefixes: Sequence[int]


@dataclass(frozen=True)
class SeenPrefix:
    """Who looks at a prefix in this step, and at how much of it.

    number: of the prefix; rows: [m] int64, None for all; last: how many of its last tokens are seen, None for all
    mask:   [m, n, last] additive, None where everything is seen; blind: [m, n] bool, queries that see nothing of it
    """

    number: int
    rows: Tensor | None
    last: int | None = None
    mask: Tensor | None = None
    blind: Tensor | None = None


class View:
    """The view of one step for all layers with the same window; a mask is made only if the rows differ.

    window, ring: of the layers; both None where everything is kept
    like:         the new tokens' K, [B, H_kv, n, D]

    raises: ValueError where the batch has another number of rows
    """

    def __init__(self, rows: Rows, window: int | None, ring: int | None, like: Tensor) -> None:
        n, lengths, device = like.shape[2], rows.lengths, like.device
        if like.shape[0] != len(lengths):
            raise ValueError(f"the batch must have the cache's {len(lengths)} rows, got {like.shape[0]}")
        self.window, self.ring, self.dtype = window, ring, like.dtype
        is_uniform = len(set(lengths)) == 1
        self.is_plain = is_uniform and n == 1  # one new token for rows of one length
        self.end = max(lengths) + n
        # Whole vectors of columns: a row's sums are then the same whoever else is in the batch.
        self.columns = whole(self.end) if device.type == "cpu" else self.end
        if ring is not None:
            self.columns = min(self.columns, ring)
        # t: [B, n], or [1, n] for rows of one length
        at = torch.tensor(lengths[:1] if is_uniform else lengths, device=device)[:, None]
        at = at + torch.arange(n, device=device)
        self.places = at if ring is None else at % ring
        self.mask = None
        if not (self.is_plain and self.columns == min(self.end, window or self.end)):
            newest = at[:, -1:]
            # The newest token that stands, or would stand, in each column; a column not written to yet has none.
            key = (newest - (newest - torch.arange(self.columns, device=device)) % self.columns)[:, None]
            self.mask = self._additive(self._visible(key, at) & (key >= 0)).expand(len(lengths), -1, -1)
        seen = (self._prefix(rows, number, at) for number in range(len(rows.prefixes)))
        self.prefixes = [prefix for prefix in seen if prefix is not None]

    def _prefix(self, rows: Rows, number: int, at: Tensor) -> SeenPrefix | None:
        window, lengths = self.window, rows.lengths
        looking = [b for b, g in enumerate(rows.group) if g == number and (window is None or lengths[b] < window - 1)]
        if not looking:
            return None
        index = None if len(looking) == len(lengths) else torch.tensor(looking, device=at.device)
        if window is None:
            return SeenPrefix(number, index)
        last = min(rows.prefixes[number], window - 1 - min(lengths[b] for b in looking))
        if self.is_plain:
            return SeenPrefix(number, index, last)
        at = at.expand(len(lengths), -1)
        visible, blind = (
            self._visible(torch.arange(-last, 0, device=at.device), at if index is None else at[index]),
            None,
        )
        if at.shape[1] > 1:
            blind = ~visible.any(-1)
            visible |= blind[..., None]
        return SeenPrefix(number, index, last, self._additive(visible), blind)

    def _visible(self, key: Tensor, at: Tensor) -> Tensor:
        """[B, n, S] bool; positions count from the end of the prefix, so that the prefix's own are negative."""
        return _visible(key, at, self.window)

    def _additive(self, visible: Tensor) -> Tensor:
        zeros = torch.zeros(visible.shape, dtype=self.dtype, device=visible.device)
        return zeros.masked_fill_(~visible, -torch.inf)


def _visible(key: Tensor, at: Tensor, window: int | None) -> Tensor:
    seen = key <= at[..., None]
    return seen if window is None else seen & (key > at[..., None] - window)
