"""Triton kernels of one step's attention: each row's newest token over its prefix and over its own tail.

A prefix is cut into parts. A program reads one part for a tile of rows that continue it, and leaves the sum of values
by their weights with the log-sum-exp, float32; the latter as a maximum and a sum, since a logarithm of their product
would be rounded. A second kernel reads a row's tail and adds the parts to it. How a prefix is cut depends on its length
alone, and how a tile is multiplied on nothing, so that no row's bits depend on the others.
Lengths, prefixes and their addresses lie in tensors: a captured graph stays right while they change.
"""

# mypy: ignore-errors
# (the arguments of Triton's functions get their types from Triton)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _scores(q, k, scale, softcap, HAS_SOFTCAP: tl.constexpr):
    """q [M, D], k [D, N]; [M, N] float32, whatever their dtype: nothing is rounded before the softmax."""
    s = tl.dot(q, k, input_precision="ieee") * scale
    if HAS_SOFTCAP:
        s = softcap * (1 - 2 / (tl.exp(2 * (s / softcap)) + 1))  # tanh
    return s


@triton.jit
def _add_keys(s, v, top, total, out):
    """Take in the scores s [M, N] of keys with values v [N, Dv]; -inf is a key that is not seen."""
    higher = tl.maximum(top, tl.max(s, 1))
    base = tl.where(higher == float("-inf"), 0.0, higher)  # where nothing has been seen yet
    p = tl.exp(s - base[:, None])
    shrink = tl.exp(top - base)
    out = out * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
    return higher, total * shrink + tl.sum(p, 1), out


@triton.jit
def read_prefixes(
    query, row_stride, head_stride, tiles, order, table, lengths,
    part_out, part_top, part_total, rows, scale, softcap, window,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_N: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_WINDOW: tl.constexpr,
):  # fmt: skip
    """Program (tile, some heads of a key head, part): out [parts, rows, H, Dv], top and total [parts, rows, H]."""
    tile, part = tl.program_id(0), tl.program_id(2)
    of_head: tl.constexpr = (GROUPS + BLOCK_G - 1) // BLOCK_G
    head = tl.program_id(1) // of_head
    prefix = tl.load(tiles + 3 * tile)
    first = tl.load(tiles + 3 * tile + 1)
    count = tl.load(tiles + 3 * tile + 2)
    if count == 0:
        return
    entry = table + 4 * prefix
    stored = tl.load(entry + 2).to(tl.int32)
    span = tl.load(entry + 3).to(tl.int32)
    start = part * span
    if start >= stored:
        return
    kind: tl.constexpr = tl.pointer_type(query.dtype.element_ty)
    keys = tl.multiple_of(tl.load(entry).to(kind), 16) + head.to(tl.int64) * stored * D
    values = tl.multiple_of(tl.load(entry + 1).to(kind), 16) + head.to(tl.int64) * stored * DV

    m = tl.arange(0, BLOCK_ROWS * BLOCK_G)
    g = tl.program_id(1) % of_head * BLOCK_G + m % BLOCK_G
    is_row = (m // BLOCK_G < count) & (g < GROUPS)
    row = tl.load(order + first + m // BLOCK_G, mask=is_row, other=0).to(tl.int64)
    at = tl.load(lengths + row, mask=is_row, other=0).to(tl.int32)
    d, dv = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    q_at = query + row * row_stride + (head * GROUPS + g) * head_stride
    q = tl.load(q_at[:, None] + d[None, :], mask=is_row[:, None] & (d < D)[None, :], other=0.0)

    top = tl.full([BLOCK_ROWS * BLOCK_G], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS * BLOCK_G], tl.float32)
    out = tl.zeros([BLOCK_ROWS * BLOCK_G, BLOCK_DV], tl.float32)
    end = tl.minimum(start + span, stored)
    for n0 in range(start, end, BLOCK_N):
        n = n0 + tl.arange(0, BLOCK_N)
        is_key = n < end
        k = tl.load(keys + n[None, :] * D + d[:, None], mask=is_key[None, :] & (d < D)[:, None], other=0.0)
        v = tl.load(values + n[:, None] * DV + dv[None, :], mask=is_key[:, None] & (dv < DV)[None, :], other=0.0)
        s = _scores(q, k, scale, softcap, HAS_SOFTCAP)
        is_seen = is_key[None, :] & is_row[:, None]
        if HAS_WINDOW:  # positions count from the end of the prefix
            is_seen = is_seen & ((n - stored)[None, :] > (at - window)[:, None])
        top, total, out = _add_keys(tl.where(is_seen, s, float("-inf")), v, top, total, out)

    place = (part * rows + row) * HEADS + head * GROUPS + g
    tl.store(part_top + place, top, mask=is_row)
    tl.store(part_total + place, total, mask=is_row)
    tl.store(part_out + place[:, None] * DV + dv[None, :], out, mask=is_row[:, None] & (dv < DV)[None, :])


@triton.jit
def read_tails(
    query, row_stride, head_stride, keys, values, key_row, key_head, key_token, value_row, value_head, value_token,
    columns, group, table, lengths, part_out, part_top, part_total, sinks, result, rows, scale, softcap, window,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_SINKS: tl.constexpr,
):  # fmt: skip
    """Program (row, key head): the row's own tail, then the parts of its prefix; result [rows, H, Dv]."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tl.load(lengths + row).to(tl.int32)
    g, d, dv = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    is_head = g < GROUPS
    q_at = query + row * row_stride + (head * GROUPS + g) * head_stride
    q = tl.load(q_at[:, None] + d[None, :], mask=is_head[:, None] & (d < D)[None, :], other=0.0)
    top = tl.full([BLOCK_G], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_G], tl.float32)
    out = tl.zeros([BLOCK_G, BLOCK_DV], tl.float32)

    keys += row * key_row + head * key_head
    values += row * value_row + head * value_head
    end = tl.minimum(at + 1, columns)
    for n0 in range(0, end, BLOCK_N):
        n = n0 + tl.arange(0, BLOCK_N)
        is_key = n < end
        k = tl.load(keys + n[None, :] * key_token + d[:, None], mask=is_key[None, :] & (d < D)[:, None], other=0.0)
        v = tl.load(
            values + n[:, None] * value_token + dv[None, :], mask=is_key[:, None] & (dv < DV)[None, :], other=0.0
        )
        s = _scores(q, k, scale, softcap, HAS_SOFTCAP)
        if HAS_WINDOW:  # the columns are a ring: how far back is what stands in column n?
            is_key = is_key & ((at - n + columns) % columns < window)
        top, total, out = _add_keys(tl.where(is_key[None, :], s, float("-inf")), v, top, total, out)

    heads = head * GROUPS + g
    prefix = tl.load(group + row)
    if prefix >= 0:
        entry = table + 4 * prefix
        parts = tl.cdiv(tl.load(entry + 2), tl.load(entry + 3)).to(tl.int32)
        for part in range(parts):
            place = (part * rows + row) * HEADS + heads
            its_top = tl.load(part_top + place, mask=is_head, other=float("-inf"))
            its_total = tl.load(part_total + place, mask=is_head, other=0.0)
            is_value = is_head[:, None] & (dv < DV)[None, :]
            o = tl.load(part_out + place[:, None] * DV + dv[None, :], mask=is_value, other=0.0)
            higher = tl.maximum(top, its_top)
            shrink, weight = tl.exp(top - higher), tl.exp(its_top - higher)
            total = total * shrink + its_total * weight
            out = out * shrink[:, None] + o * weight[:, None]
            top = higher
    if HAS_SINKS:
        total += tl.exp(tl.load(sinks + heads, mask=is_head, other=0.0).to(tl.float32) - top)
    out = (out / total[:, None]).to(result.dtype.element_ty)
    tl.store(
        result + (row * HEADS + heads)[:, None] * DV + dv[None, :], out, mask=is_head[:, None] & (dv < DV)[None, :]
    )
