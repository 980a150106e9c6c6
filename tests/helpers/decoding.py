"""One step's attention of made-up rows: by the decode kernels, and by plain products in any precision."""

from __future__ import annotations

import pytest
import torch

from fastsample.shared_prefix.decode import Directory, looked_at
from fastsample.shared_prefix.prefix import PrefixLayer
from fastsample.torch_ops import decode


class Step:
    """One step's attention of made-up rows."""

    def __init__(self, seed=0, *, groups=3, key_heads=2, width=(64, 64), dtype=torch.float32, window=None, softcap=None,
                 has_sinks=False, rows=6, prefixes=(300, 70), columns=32, longest=None, device="cpu"):  # fmt: skip
        self.draw = torch.Generator().manual_seed(seed)
        self.dtype, self.window, self.softcap, self.device = dtype, window, softcap, torch.device(device)
        D, Dv = width
        self.query = self.random(rows, groups * key_heads, 1, D)
        self.keys, self.values = self.random(rows, key_heads, columns, D), self.random(rows, key_heads, columns, Dv)
        self.lengths = torch.randint(0, longest or columns, (rows,), generator=self.draw).to(device)
        self.stored = [
            PrefixLayer(self.random(1, key_heads, n, D), self.random(1, key_heads, n, Dv), window) for n in prefixes
        ]
        # The last row is one of those that only fill up the batch.
        self.group = torch.randint(0, len(prefixes), (rows - 1,), generator=self.draw).tolist()
        self.sinks = torch.randn(groups * key_heads, generator=self.draw).to(device) if has_sinks else None

    def random(self, *shape):
        return torch.randn(*shape, generator=self.draw).to(self.device, self.dtype)

    def directory(self):
        where = Directory(len(self.query), len(self.stored) + 1, len(self.query), self.device)
        where.set(self.group)
        return where

    def by_kernels(self):
        where = self.directory()
        return decode.attend(
            self.query[:, :, 0], self.keys, self.values, self.lengths, where.group, where.order, where.tiles,
            where.table(self.stored).to(self.device), max(decode.parts(p.keys.shape[2]) for p in self.stored),
            self.window, 0.2, self.softcap, self.sinks,
        )  # fmt: skip

    def by_torch(self, dtype=None):
        """By `attention.attend`, in another dtype if one is named."""

        def to(t):
            return t if dtype is None else t.to(dtype)

        return looked_at(
            to(self.query[:, :, 0]), to(self.keys), to(self.values), self.lengths, self.directory().group,
            [to(p.keys) for p in self.stored], [to(p.values) for p in self.stored], self.window, 0.2, self.softcap,
            self.sinks,
        )  # fmt: skip

    def errors(self):
        """Distances from float64 (root mean square) of the kernels, and of plain products, as a GPU had them before."""
        exact = self.by_torch(torch.float64)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fastsample.torch_ops.flash.is_fastest", lambda *_: False)
            patch.setattr("fastsample.shared_prefix.attention._has_product", lambda *_: False)
            naive = self.by_torch()
        return tuple(float((got - exact).square().mean().sqrt()) for got in (self.by_kernels(), naive))


STEPS = {
    "grouped heads, two prefixes": {},
    "one key head, sinks, soft-capping": dict(groups=4, key_heads=1, has_sinks=True, softcap=5.0),
    "widths that are no powers of two": dict(width=(80, 48), groups=1, rows=8, prefixes=(700, 3)),
    "a window and a ring that goes round": dict(window=40, columns=48, longest=130, groups=2),
    "rows and heads in several tiles": dict(groups=11, key_heads=1, rows=19, prefixes=(50,), window=20, has_sinks=True),
    "a prefix in many parts": dict(prefixes=(9000,), key_heads=1, groups=2, rows=2, width=(16, 16)),
    "one row, no prefix": dict(rows=1),
}
