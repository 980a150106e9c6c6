"""A bracket of logits that should hold a filter's cut, from 16 chunks of the highest maxima and 16 of the rest.

A guess decides nothing, so floats will do: `triton_cut` checks it with integers and looks elsewhere where it was wrong.
"""

# mypy: ignore-errors
# (the arguments of Triton's functions get their types from Triton)

from __future__ import annotations

import triton
import triton.language as tl

from .triton_arithmetic import CHUNK, INDEX_BITS, at_rank, chunk_scale, logarithm, rank, weight

LOOK = tl.constexpr(16)  # chunks that a guess takes from the top, and as many from the rest


@triton.jit
def read_chunks(start, vocab, listing, tops, first, n, COUNT: tl.constexpr):
    """Chunks listing[first : first + COUNT] (empty from n on): numbers, tops, tokens, logits."""
    at = first + tl.arange(0, COUNT)
    chunk = tl.load(listing + at, mask=at < n, other=0)
    chunk_top = tl.load(tops + chunk)
    i = chunk[:, None] * CHUNK + tl.arange(0, CHUNK)[None, :]
    x = tl.load(start + i, mask=(at < n)[:, None] & (i < vocab), other=float("-inf")).to(tl.float32)
    return chunk, chunk_top, i, x


@triton.jit
def guess(
    start, vocab, chunks, tops, listing, top, c, low, target, total, by_count, BLOCK: tl.constexpr, STEPS: tl.constexpr
):
    """A bracket of keys that should hold the cut. Decides nothing: floats will do."""
    j = tl.arange(0, BLOCK)
    chunk_top = tl.load(tops + j, mask=j < chunks, other=float("-inf"))
    # All tokens below `floor` together weigh less than what may be missing from the total.
    missing = tl.maximum(total - target, 1).to(tl.float64) / vocab.to(tl.float64)
    depth = (logarithm(missing) * 1.4426950408889634 - 30.0).to(tl.float32)
    floor = at_rank(low >> INDEX_BITS)
    floor = tl.where(by_count, floor, tl.maximum(floor, top + depth / c))
    # The chunks with the highest maxima: all from `b` up, and of those in [a, b) the first ones.
    a, b = rank(floor).to(tl.int64), rank(top).to(tl.int64) + 1
    for _ in range(20):
        middle = a + (b - a) // 2
        is_many = tl.sum((chunk_top >= at_rank(middle)).to(tl.int32)) > LOOK
        a = tl.where(is_many, middle, a)
        b = tl.where(is_many, b, middle)
    is_first = chunk_top >= at_rank(b)
    n_first = tl.sum(is_first.to(tl.int32))
    is_next = (chunk_top >= floor) & (chunk_top < at_rank(b))
    place = tl.where(is_first, tl.cumsum(is_first.to(tl.int32), 0), n_first + tl.cumsum(is_next.to(tl.int32), 0)) - 1
    is_picked = is_first | (is_next & (place < LOOK))
    n_picked = tl.sum(is_picked.to(tl.int32))
    is_rest = is_next & (place >= LOOK)
    n_rest = tl.sum(is_rest.to(tl.int32))
    tl.debug_barrier()
    tl.store(listing + place, j, mask=is_picked | is_rest)
    tl.debug_barrier()
    next_top = tl.max(tl.where(is_rest, chunk_top, floor))
    _, top1, _, x1 = read_chunks(start, vocab, listing, tops, 0, n_picked, LOOK)
    f1 = weight(x1, top1[:, None], c).to(tl.float32) * chunk_scale(top1, top, c).to(tl.float32)[:, None]
    f1 = tl.where(x1 >= at_rank(low >> INDEX_BITS), tl.where(by_count, 1.0, f1), 0.0)
    wanted = target.to(tl.float32)
    is_enough = (n_rest == 0) | (tl.sum(tl.where(x1 >= next_top, f1, 0.0)) >= wanted)
    # A flat row: chunks spread over the rest stand for it. Below the cut the chunks are alike, so their tail is scaled.
    n_spread = tl.where(is_enough, 0, tl.minimum(n_rest, LOOK))
    spread = tl.arange(0, LOOK)
    is_spread = spread < n_spread
    chunk2 = tl.load(
        listing + LOOK + (spread.to(tl.int64) * n_rest // tl.maximum(n_spread, 1)), mask=is_spread, other=0
    )
    top2 = tl.load(tops + chunk2)
    i2 = chunk2[:, None] * CHUNK + tl.arange(0, CHUNK)[None, :]
    x2 = tl.load(start + i2, mask=is_spread[:, None] & (i2 < vocab), other=float("-inf")).to(tl.float32)
    f2 = weight(x2, top2[:, None], c).to(tl.float32) * chunk_scale(top2, top, c).to(tl.float32)[:, None]
    f2 = tl.where(x2 >= at_rank(low >> INDEX_BITS), tl.where(by_count, 1.0, f2), 0.0)
    f2 = f2 * tl.where(is_enough, 0.0, n_rest.to(tl.float32) / tl.maximum(n_spread, 1).to(tl.float32))
    offset = tl.where(is_enough | by_count, 0.0, total.to(tl.float32) - tl.sum(f1) - tl.sum(f2))
    a = rank(tl.where(is_enough, next_top, floor)).to(tl.int64)
    b = rank(top).to(tl.int64) + 1
    for _ in range(STEPS):
        middle = a + (b - a) // 2
        v = at_rank(middle)
        is_reached = offset + tl.sum(tl.where(x1 >= v, f1, 0.0)) + tl.sum(tl.where(x2 >= v, f2, 0.0)) >= wanted
        a = tl.where(is_reached, middle, a)
        b = tl.where(is_reached, b, middle)
    if is_enough == 0:  # widen by three standard deviations of the sampled tail
        is_tail = x2 < at_rank(a)
        tail = tl.sum(tl.where(is_tail, f2 * f2, 0.0))
        head = tl.sum(tl.where(is_tail, 0.0, f2 * f2))
        slack = 3.0 * tl.sqrt(tl.where(by_count, tl.minimum(tail, head) + n_rest, tail))
        a, b = rank(floor).to(tl.int64), rank(top).to(tl.int64) + 1
        a2, b2 = a, b
        for _ in range(STEPS):
            middle = a + (b2 - a) // 2
            v = at_rank(middle)
            s = offset + tl.sum(tl.where(x1 >= v, f1, 0.0)) + tl.sum(tl.where(x2 >= v, f2, 0.0))
            a = tl.where(s >= wanted + slack, middle, a)
            b2 = tl.where(s >= wanted + slack, b2, middle)
            middle = a2 + (b - a2) // 2
            v = at_rank(middle)
            s = offset + tl.sum(tl.where(x1 >= v, f1, 0.0)) + tl.sum(tl.where(x2 >= v, f2, 0.0))
            a2 = tl.where(s >= wanted - slack, middle, a2)
            b = tl.where(s >= wanted - slack, b, middle)
    return a << INDEX_BITS, b << INDEX_BITS
