"""Launches of the decode kernels: one step's attention on a GPU, in two launches a layer."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

TILE_ROWS = 16  # rows whose queries a program multiplies at once
TILE_HEADS = 8  # query heads of one key head, likewise
PREFIX_WARPS, TAIL_WARPS = 8, 4  # of a program of either kernel
# Compile options: blocks of keys that are on their way at once; products and sums in one step, of which Triton 3.9 asks
# for a word, as its next release will take the opposite unless told.
OPTIONS = dict(num_stages=2, enable_fp_fusion=True)
SPAN = 256  # keys of a part, where a prefix is no longer than PARTS of them
PARTS = 32  # into which a prefix is cut at most
ENTRY = 4  # numbers of a prefix in a table: address of K, of V, tokens stored, keys of a part


class Blocks(NamedTuple):
    """Compile-time sizes of the kernels for heads of these widths."""

    heads: int  # of a tile
    groups: int  # query heads of a key head
    width: int
    value_width: int
    keys: int  # that are read at once

    @classmethod
    def of(cls, groups: int, width: int, value_width: int, itemsize: int) -> Blocks:
        """Powers of two, of 16 at least where they are multiplied."""
        D, Dv = max(16, _power(width)), max(16, _power(value_width))
        # By what nothing is spilled with, and 99 kB of shared memory suffice for (tests/shared_prefix/test_decode.py);
        # float32 is multiplied without the tensor cores, and takes registers for it.
        room = (16384 if itemsize == 2 else 8192) // (max(D, Dv) * itemsize)
        heads, keys = max(1, min(TILE_HEADS, room // 8)), max(16, min(64, room))
        return cls(min(heads, _power(groups)), max(16, _power(groups)), D, Dv, keys)


def _power(n: int) -> int:
    return 1 << (n - 1).bit_length()


def span(stored: int) -> int:
    """Keys of a part of a prefix of so many tokens: a function of its length alone, as a row's bits depend on it."""
    keys = SPAN
    while -(-stored // keys) > PARTS:
        keys *= 2
    return keys


def parts(stored: int) -> int:
    """Parts of a prefix of so many tokens."""
    return -(-stored // span(stored))


@cache
def missing(device_type: str) -> str | None:
    """Why the kernels cannot run on such a device, in one sentence, or None."""
    if find_spec("triton") is None:
        return "triton is not installed; pip install triton"
    if device_type != "cuda":
        return f"Triton runs on CUDA and ROCm devices, not on {device_type}"
    return None


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    group: Tensor,
    order: Tensor,
    tiles: Tensor,
    table: Tensor,
    most_parts: int,
    window: int | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """One token of every row over its prefix and its tail; all tensors on the device, and none is waited for.

    query:   [B, H, D]; keys, values: the tails, [R, H_kv, C, D] and [R, H_kv, C, Dv], R >= B
    lengths: [B] int64, tokens in the tail before this one, which is stored already; the columns are a ring of C
    group:   [B] int32, the number of the prefix that each row continues, or -1
    order:   int32, rows beside each other that continue one prefix; tiles: [T, 3] int32: prefix, first place in
             `order`, rows, TILE_ROWS at most (0: nothing to do)
    table:   [G, 4] int64 of each prefix in this layer: addresses of its contiguous K [H_kv, P', D] and V, P', `span`
    most_parts: of any prefix

    returns: [B, H, Dv] in the dtype of the query
    """
    from . import decode_kernels as kernels

    B, H, D = query.shape
    H_kv, C, Dv = keys.shape[1], keys.shape[2], values.shape[3]
    blocks = Blocks.of(H // H_kv, D, Dv, query.element_size())
    query = query if query.stride(2) == 1 else query.contiguous()
    result = query.new_empty(B, H, Dv)
    part_out = query.new_empty(max(1, most_parts), B, H, Dv, dtype=torch.float32)
    part_top, part_total = query.new_empty(2, max(1, most_parts), B, H, dtype=torch.float32)
    numbers = (scale, softcap or 0.0, window or 0)
    same: dict[str, Any] = dict(
        HEADS=H, GROUPS=H // H_kv, D=D, DV=Dv, BLOCK_D=blocks.width, BLOCK_DV=blocks.value_width, BLOCK_N=blocks.keys,
        HAS_SOFTCAP=softcap is not None, HAS_WINDOW=window is not None, **OPTIONS,
    )  # fmt: skip
    asked = (query, query.stride(0), query.stride(1))
    if most_parts:
        kernels.read_prefixes[tiles.shape[0], H_kv * -(-H // H_kv // blocks.heads), most_parts](
            *asked, tiles, order, table, lengths, part_out, part_top, part_total, B, *numbers,
            BLOCK_ROWS=TILE_ROWS, BLOCK_G=blocks.heads, num_warps=PREFIX_WARPS, **same,
        )  # fmt: skip
    kernels.read_tails[B, H_kv](
        *asked, keys, values, *keys.stride()[:3], *values.stride()[:3], C, group, table, lengths, part_out, part_top,
        part_total, sinks, result, B, *numbers, BLOCK_G=blocks.groups, HAS_SINKS=sinks is not None,
        num_warps=TAIL_WARPS, **same,
    )  # fmt: skip
    return result
