"""One step's attention as one operator whose rows, lengths and prefixes lie in tensors: what a CUDA graph can replay.

The same mathematics as `attention`, for one new token a row. Where Triton runs, two kernels do it and nothing is waited
for; elsewhere `attention.attend` does, and looks at the lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..torch_ops import decode
from .attention import PrefixPart, TailPart, attend
from .prefix import PrefixLayer
from .sizes import whole


class Directory:
    """Which row continues which prefix, in tensors of fixed sizes that kernels look things up in.

    rows:     places of rows; those behind the batch's last row continue nothing
    prefixes: that there is room for; tiles: groups of rows that are multiplied at once, see `torch_ops.decode`

    group: [rows] int32, order: [rows] int32, tiles: [tiles, 3] int32
    """

    def __init__(self, rows: int, prefixes: int, tiles: int, device: torch.device) -> None:
        self.prefixes = prefixes
        self.group = torch.full((rows,), -1, dtype=torch.int32, device=device)
        self.order = torch.zeros(rows, dtype=torch.int32, device=device)
        self.tiles = torch.zeros(tiles, 3, dtype=torch.int32, device=device)

    def set(self, group: Sequence[int]) -> None:
        """Let row b continue prefix group[b]."""
        tiles = tiles_of(group)
        order = sorted(range(len(group)), key=group.__getitem__)
        _fill(self.group, group, -1)
        _fill(self.order, order, 0)
        self.tiles.copy_(torch.tensor(tiles + [(0, 0, 0)] * (len(self.tiles) - len(tiles)), dtype=torch.int32))

    def table(self, layers: Sequence[PrefixLayer]) -> Tensor:
        """[prefixes, 4] int64: where one layer of each prefix lies, for the kernels."""
        entries = [(p.keys.data_ptr(), p.values.data_ptr(), n, decode.span(n))
                   for p in layers for n in [p.keys.shape[2]]]  # fmt: skip
        return torch.tensor(entries + [(0, 0, 0, 1)] * (self.prefixes - len(entries)), dtype=torch.int64)


def tiles_of(group: Sequence[int]) -> list[tuple[int, int, int]]:
    """(prefix, first place, rows) of every tile, where rows of one prefix stand beside each other."""
    tiles, first, most = [], 0, decode.TILE_ROWS
    for prefix in sorted(set(group)):
        count = sum(g == prefix for g in group)
        tiles += [(prefix, first + i, min(most, count - i)) for i in range(0, count, most)]
        first += count
    return tiles


def _fill(tensor: Tensor, values: Sequence[int], rest: int) -> None:
    padded = [*values, *[rest] * (len(tensor) - len(values))]
    tensor.copy_(torch.tensor(padded, dtype=tensor.dtype))


@dataclass(eq=False)
class FixedPart:
    """What the rows of a step look at in one layer, for `attend_part`.

    keys, values: [R, H_kv, C, D], the tails; lengths: [R] int64, tokens in them before this step's
    table, most_parts: of the layer's prefixes, see `Directory.table`; prefixes: the layers themselves
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor
    directory: Directory
    table: Tensor
    most_parts: int
    prefixes: Sequence[PrefixLayer]
    window: int | None

    def attend(self, query: Tensor, scale: float, softcap: float | None, sinks: Tensor | None) -> Tensor:
        """query [R, H, 1, D]; returns [R, 1, H, Dv] in the dtype of the query."""
        where, stored = self.directory, self.prefixes
        out: Tensor = decode_op(
            query[:, :, 0], self.keys, self.values, self.lengths, where.group, where.order, where.tiles, self.table,
            self.most_parts, [p.keys for p in stored], [p.values for p in stored], self.window, scale, softcap, sinks,
        )  # fmt: skip
        return out[:, None]


@torch.library.custom_op("fastsample::decode", mutates_args=())
def decode_op(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    group: Tensor,
    order: Tensor,
    tiles: Tensor,
    table: Tensor,
    most_parts: int,
    prefix_keys: list[Tensor],
    prefix_values: list[Tensor],
    window: int | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """See `torch_ops.decode.attend`; prefix_keys and prefix_values are what the table's addresses belong to."""
    if decode.missing(query.device.type) is None:
        return decode.attend(
            query, keys, values, lengths, group, order, tiles, table, most_parts, window, scale, softcap, sinks
        )
    return looked_at(query, keys, values, lengths, group, prefix_keys, prefix_values, window, scale, softcap, sinks)


@decode_op.register_fake
def _(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    group: Tensor,
    order: Tensor,
    tiles: Tensor,
    table: Tensor,
    most_parts: int,
    prefix_keys: list[Tensor],
    prefix_values: list[Tensor],
    window: int | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[1], values.shape[3])


def looked_at(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    group: Tensor,
    prefix_keys: Sequence[Tensor],
    prefix_values: Sequence[Tensor],
    window: int | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """The operator by `attention.attend`, with masks made of the lengths, which are waited for."""
    B, C = len(query), keys.shape[2]
    at = lengths[:, None]
    columns = min(whole(int(lengths.max()) + 1), C)
    key = at - (at - torch.arange(C, device=at.device)[:columns]) % C
    is_seen = (key >= 0) if window is None else (key >= 0) & (key > at - window)
    part = TailPart(keys[:, :, :columns], values[:, :, :columns], _additive(is_seen[:, None], query), window)
    for number, (k, v) in enumerate(zip(prefix_keys, prefix_values)):
        looks = group == number
        if window is not None:
            looks = looks & (lengths < window - 1)
        rows = looks.nonzero()[:, 0]
        if not len(rows):
            continue
        mask = None
        if window is not None:
            behind = torch.arange(-k.shape[2], 0, device=at.device)
            mask = _additive((behind > at[rows] - window)[:, None], query)
        part.prefixes.append(PrefixPart(k, v, None if len(rows) == B else rows, mask))
    return attend(query[:, :, None], part, scale, softcap, sinks)[:, 0]


def _additive(is_seen: Tensor, like: Tensor) -> Tensor:
    return torch.zeros(is_seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~is_seen, -torch.inf)
