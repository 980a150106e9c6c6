"""What each row sees in one step: columns of its tail, tokens of its prefix, and masks where the rows differ.

A tail's token t stands in column t, or, in a layer with a window, in column t mod R of a ring of R columns: the window
and no more. Query i of row b stands at t = lengths[b] + i of its tail. It sees the tail's token j if t - W < j <= t,
and the token p of the prefix if p > P + t - W.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .memory import whole

if TYPE_CHECKING:
    from .prefix_cache import SharedCache


class Sight:
    """The view of one step for all layers with the same window; a mask is made only if the rows differ.

    window, ring: of the layers; both None where everything is kept
    like:         the new tokens' K, [B, H_kv, n, D]
    """

    def __init__(self, cache: SharedCache, window: int | None, ring: int | None, like: Tensor) -> None:
        n, lengths, device = like.shape[2], cache.lengths, like.device
        if like.shape[0] != len(lengths):
            raise ValueError(f"the batch must have the cache's {len(lengths)} rows, got {like.shape[0]}")
        self.ring = ring
        self.is_uniform = len(set(lengths)) == 1
        self.end = max(lengths) + n
        # Whole vectors of columns: a row's sums are then the same whoever else is in the batch.
        self.columns = whole(self.end) if device.type == "cpu" else self.end
        if ring is not None:
            self.columns = min(self.columns, ring)
        # t: [B, n], or [1, n] for rows of one length
        at = torch.tensor(lengths[:1] if self.is_uniform else lengths, device=device)[:, None]
        at = at + torch.arange(n, device=device)
        self.places = at if ring is None else at % ring
        self.mask = None
        if not (self.is_uniform and n == 1 and self.columns == min(self.end, window or self.end)):
            newest = at[:, -1:]
            # The newest token that stands, or would stand, in each column; a column not written to yet has none.
            key = (newest - (newest - torch.arange(self.columns, device=device)) % self.columns)[:, None]
            self.mask = _additive(_visible(key, at, window) & (key >= 0), like.dtype).expand(len(lengths), -1, -1)
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
