"""The rows' own K/V in one layer: storage that starts small, doubles as it fills, and stops at a layer's window.

Without a window, a tail's token t stands in column t. With a window W the columns are a ring: token t stands in column
t mod R, where R is W in whole vectors, so that a tail of any length takes no more than its window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .sizes import allocated, ring_of
from .visibility import View


class Tails:
    """One layer's tails: storage [rows, H_kv, capacity, D], of which the first B rows are in use.

    window: of the layer in tokens, or None. The lengths of the rows' tails are the caller's, who has many layers.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, window: int | None) -> None:
        self.window = window
        self.ring = None if window is None else ring_of(window)
        self.has_storage = False

    @property
    def nbytes(self) -> int:
        """Bytes of storage."""
        return self.keys.nbytes + self.values.nbytes if self.has_storage else 0

    def ring_for(self, queries: int) -> int | None:
        """The ring that a step of so many new tokens needs; it never shrinks."""
        return None if self.window is None or self.ring is None else max(self.ring, ring_of(self.window, queries))

    def write(self, k: Tensor, v: Tensor, view: View, lengths: Sequence[int]) -> None:
        """Store the new tokens' k, v [B, H_kv, n, D] behind tails of these lengths."""
        B = k.shape[0]
        if not self.has_storage:
            self.keys, self.values = (t.new_empty(B, t.shape[1], 0, t.shape[3]) for t in (k, v))
            self.has_storage = True
        self._make_room(B, view, lengths)
        if view.is_plain:
            place = (view.end - 1) % (view.ring or view.end)
            self.keys[:B, :, place] = k[:, :, 0]
            self.values[:B, :, place] = v[:, :, 0]
        else:
            row = torch.arange(B, device=k.device)[:, None]
            self.keys[row, :, view.places] = k.transpose(1, 2)
            self.values[row, :, view.places] = v.transpose(1, 2)

    def in_order(self, rows: int, end: int) -> tuple[Tensor, Tensor, bool]:
        """The tails of rows of one length `end`, oldest token first, and whether the ring has lost their first one."""
        keys, values = self.keys[:rows], self.values[:rows]
        if self.ring is not None and end > self.ring:
            return keys.roll(-end % self.ring, 2), values.roll(-end % self.ring, 2), True
        return keys[:, :, :end], values[:, :, :end], False

    def keep(self, order: Sequence[int], lengths: Sequence[int]) -> None:
        """Row i becomes what row order[i] was; lengths: of the tails before."""
        if not self.has_storage:
            return
        moves = [(i, source) for i, source in enumerate(order) if i != source and source < self.keys.shape[0]]
        if all(source >= len(order) for _, source in moves):  # holes filled from the end: nothing is overwritten
            for i, source in moves:
                used = lengths[source]  # or all columns, where a ring has fewer
                self.keys[i, :, :used] = self.keys[source, :, :used]
                self.values[i, :, :used] = self.values[source, :, :used]
        else:
            last = self.keys.shape[0] - 1  # rows added since the last step have no storage yet, and an empty tail
            index = torch.tensor([min(i, last) for i in order], device=self.keys.device)
            self.keys, self.values = self.keys[index], self.values[index]
        if not order:
            self.keys, self.values = self.keys[:0].clone(), self.values[:0].clone()

    def _make_room(self, rows: int, view: View, lengths: Sequence[int]) -> None:
        """Storage for so many rows and columns: exactly the rows needed, twice the columns, at most the ring's."""
        have_rows, _, have, _ = self.keys.shape
        if rows > have_rows or view.columns > have:
            places = None
            if self.ring != view.ring and max(lengths) > have:  # what has gone round the old ring moves
                places = _places(lengths[:have_rows], have, view.ring, self.keys.device)
            size = max(rows, have_rows), max(have, allocated(view.columns, view.ring))
            self.keys, self.values = _larger(self.keys, *size, places), _larger(self.values, *size, places)
        self.ring = view.ring


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
