"""The rows' own K/V in one layer: storage that starts small, doubles as it fills, and stops at a layer's window.

Without a window, a tail's token t stands in column t. With a window W the columns are a ring: token t stands in column
t mod R, where R is W in whole vectors, so that a tail of any length takes no more than its window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .prefix import PrefixLayer
from .sizes import allocated, ring_of, whole
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
        self.is_reserved = False  # kept without a row too

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
        self._make_room(k, v, B, view.columns, view.ring, lengths)
        if view.is_plain:
            place = (view.end - 1) % (view.ring or view.end)
            self.keys[:B, :, place] = k[:, :, 0]
            self.values[:B, :, place] = v[:, :, 0]
        else:
            row = torch.arange(B, device=k.device)[:, None]
            self.keys[row, :, view.places] = k.transpose(1, 2)
            self.values[row, :, view.places] = v.transpose(1, 2)

    def reserve(self, like: PrefixLayer, rows: int, columns: int, lengths: Sequence[int]) -> None:
        """Storage for so many rows and columns before anything is written, kept from now on, also without a row.

        like: a layer with the same heads; what is there and suffices stays where it is
        """
        self.is_reserved = True
        columns = columns if self.ring is None else min(columns, self.ring)
        self._make_room(like.keys, like.values, rows, columns, self.ring, lengths)

    def fill(self, first: int, count: int, end: int, k: Tensor, v: Tensor, lengths: Sequence[int]) -> None:
        """Let rows first ... first + count - 1 begin with tails of `end` tokens, of which k, v [1, H_kv, n, D] are the
        last; lengths: of the rows before them."""
        columns = whole(end) if k.device.type == "cpu" else end
        self._make_room(
            k, v, first + count, columns if self.ring is None else min(columns, self.ring), self.ring, lengths
        )
        n = min(k.shape[2], end if self.ring is None else self.ring)
        places = torch.arange(end - n, end, device=k.device)
        places = places if self.ring is None else places % self.ring
        self.keys[first : first + count, :, places] = k[:, :, -n:]
        self.values[first : first + count, :, places] = v[:, :, -n:]

    def clear(self, first: int) -> None:
        """Forget what rows that have left wrote into the places from `first` on: a masked NaN would still be one."""
        if self.has_storage:
            self.keys[first:].zero_()
            self.values[first:].zero_()

    def taken(self, row: int, start: int, end: int) -> tuple[Tensor, Tensor]:
        """A copy of a row's tokens start ... end - 1, [1, H_kv, n, D] each; of a layer with a window, what a later
        token can see of them and one more, so that the last of them can be read again."""
        first = start if self.window is None else max(start, end - self.window)
        places = torch.arange(first, end, device=self.keys.device)
        places = places if self.ring is None else places % self.ring
        return self.keys[row : row + 1, :, places], self.values[row : row + 1, :, places]

    def in_order(self, rows: int, end: int) -> tuple[Tensor, Tensor, bool]:
        """The tails of rows of one length `end`, oldest token first, and whether the ring has lost their first one."""
        keys, values = self.keys[:rows], self.values[:rows]
        if self.ring is not None and end > self.ring:
            return keys.roll(-end % self.ring, 2), values.roll(-end % self.ring, 2), True
        return keys[:, :, :end], values[:, :, :end], False

    def keep(self, order: Sequence[int], lengths: Sequence[int]) -> None:
        """Row i becomes what row order[i] was; lengths: of the tails before.

        Where `fills_holes(order)`, the rows that stay are still where they were: it can be done again.
        """
        if not self.has_storage:
            return
        if fills_holes(order):
            for i, source in enumerate(order):
                if i != source and source < self.keys.shape[0]:
                    used = lengths[source]  # or all columns, where a ring has fewer
                    self.keys[i, :, :used] = self.keys[source, :, :used]
                    self.values[i, :, :used] = self.values[source, :, :used]
        else:
            last = self.keys.shape[0] - 1  # rows added since the last step have no storage yet, and an empty tail
            index = torch.tensor([min(i, last) for i in order], device=self.keys.device)
            self._swap(self.keys[index], self.values[index], self.ring)
        if not order and not self.is_reserved:
            self._swap(self.keys[:0].clone(), self.values[:0].clone(), self.ring)

    def _make_room(
        self, k: Tensor, v: Tensor, rows: int, columns: int, ring: int | None, lengths: Sequence[int]
    ) -> None:
        """Storage for so many rows and columns: exactly the rows needed, twice the columns, at most the ring's."""
        if not self.has_storage:
            keys, values = (t.new_empty(0, t.shape[1], 0, t.shape[3]) for t in (k, v))
        else:
            keys, values = self.keys, self.values
        have_rows, _, have, _ = keys.shape
        if rows > have_rows or columns > have:
            places = None
            if self.ring != ring and max(lengths, default=0) > have:  # what has gone round the old ring moves
                places = _places(lengths[:have_rows], have, ring, keys.device)
            size = max(rows, have_rows), max(have, allocated(columns, ring))
            keys, values = _larger(keys, *size, places), _larger(values, *size, places)
        self._swap(keys, values, ring)

    def _swap(self, keys: Tensor, values: Tensor, ring: int | None) -> None:
        # One call: an interrupt cannot leave keys of one size beside values of another.
        vars(self).update(keys=keys, values=values, ring=ring, has_storage=True)


def fills_holes(order: Sequence[int]) -> bool:
    """Whether the rows that move come from the end, into places of rows that leave: no row that stays is written to."""
    return all(i == source or source >= len(order) for i, source in enumerate(order))


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
