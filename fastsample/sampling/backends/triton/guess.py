"""A bracket of logits that should hold a filter's cut, from 16 chunks of the highest maxima and 16 of the rest.

A guess decides nothing, so floats will do: `cut` checks it with integers and looks elsewhere where it was wrong.
"""

# mypy: ignore-errors
# (the arguments of Triton's functions get their types from Triton)

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import CHUNK, INDEX_BITS, at_rank, chunk_scale, logarithm, rank, weight

LOOK = tl.constexpr(16)  # chunks that a guess takes from the top, and as many from the rest
STEPS = tl.constexpr(16)  # halvings of a bracket


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
def measures(x, chunk_top, limit, top, c, by_count):
    """float32 [COUNT, CHUNK]: mass of each token, or 1 for each; 0 below `limit`."""
    f = weight(x, chunk_top[:, None], c).to(tl.float32) * chunk_scale(chunk_top, top, c).to(tl.float32)[:, None]
    return tl.where(x >= limit, tl.where(by_count, 1.0, f), 0.0)


@triton.jit
def between(a, b, step, SHIFT: tl.constexpr):
    """A rank of [a, b): by turns halfway between the ranks and between the logits, as one of both may be lopsided."""
    middle = rank(at_rank(a, SHIFT) * 0.5 + at_rank(b, SHIFT) * 0.5, SHIFT)
    return tl.where(step % 2 == 0, tl.maximum(tl.minimum(middle, b - 1), a), a + (b - a) // 2)


@triton.jit
def flat_bracket(
    start, vocab, tops, listing, n_rest, x1, f1, limit, floor, top, c, target, total, by_count, SHIFT: tl.constexpr
):
    """Of ranks, where the picked chunks x1 do not hold the cut: chunks spread over the rest stand for it."""
    wanted = target.to(tl.float32)
    n_spread = tl.minimum(n_rest, LOOK)
    spread = tl.arange(0, LOOK)
    is_spread = spread < n_spread
    chunk2 = tl.load(listing + LOOK + (spread.to(tl.int64) * n_rest // n_spread), mask=is_spread, other=0)
    top2 = tl.load(tops + chunk2)
    i2 = chunk2[:, None] * CHUNK + tl.arange(0, CHUNK)[None, :]
    x2 = tl.load(start + i2, mask=is_spread[:, None] & (i2 < vocab), other=float("-inf")).to(tl.float32)
    f2 = measures(x2, top2, limit, top, c, by_count) * (n_rest.to(tl.float32) / n_spread.to(tl.float32))
    # Below the cut the chunks are alike, so their tail is scaled.
    offset = tl.where(by_count, 0.0, total.to(tl.float32) - tl.sum(f1) - tl.sum(f2))
    lowest, highest = rank(floor, SHIFT), rank(top, SHIFT) + 1
    a, b = lowest, highest
    for step in range(STEPS):
        middle = between(a, b, step, SHIFT)
        v = at_rank(middle, SHIFT)
        is_reached = offset + tl.sum(tl.where(x1 >= v, f1, 0.0)) + tl.sum(tl.where(x2 >= v, f2, 0.0)) >= wanted
        a = tl.where(is_reached, middle, a)
        b = tl.where(is_reached, b, middle)
    # Widened by three standard deviations of the sampled tail.
    is_tail = x2 < at_rank(a, SHIFT)
    tail = tl.sum(tl.where(is_tail, f2 * f2, 0.0))
    head = tl.sum(tl.where(is_tail, 0.0, f2 * f2))
    slack = 3.0 * tl.sqrt(tl.where(by_count, tl.minimum(tail, head) + n_rest, tail))
    a2, b2 = a, b
    a, b = lowest, highest
    for step in range(STEPS):
        middle = between(a, b2, step, SHIFT)
        v = at_rank(middle, SHIFT)
        s = offset + tl.sum(tl.where(x1 >= v, f1, 0.0)) + tl.sum(tl.where(x2 >= v, f2, 0.0))
        a = tl.where(s >= wanted + slack, middle, a)
        b2 = tl.where(s >= wanted + slack, b2, middle)
        middle = between(a2, b, step, SHIFT)
        v = at_rank(middle, SHIFT)
        s = offset + tl.sum(tl.where(x1 >= v, f1, 0.0)) + tl.sum(tl.where(x2 >= v, f2, 0.0))
        a2 = tl.where(s >= wanted - slack, middle, a2)
        b = tl.where(s >= wanted - slack, b, middle)
    return a, b


@triton.jit
def guess(
    start, vocab, chunks, tops, listing, top, c, low, target, total, by_count, BLOCK: tl.constexpr, SHIFT: tl.constexpr
):
    """A bracket of keys that should hold the cut. Decides nothing: floats will do."""
    j = tl.arange(0, BLOCK)
    chunk_top = tl.load(tops + j, mask=j < chunks, other=float("-inf"))
    # All tokens below `floor` together weigh less than what may be missing from the total.
    missing = tl.maximum(total - target, 1).to(tl.float64) / vocab.to(tl.float64)
    depth = (logarithm(missing) * 1.4426950408889634 - 30.0).to(tl.float32)
    limit = at_rank(low >> INDEX_BITS, SHIFT)
    floor = tl.where(by_count, limit, tl.maximum(limit, top + depth / c))
    # The chunks with the highest maxima: all from `b` up, and of those in [a, b) the first ones.
    a, b = rank(floor, SHIFT), rank(top, SHIFT) + 1
    n_reach = tl.sum((chunk_top >= floor).to(tl.int32))
    for step in range(tl.where(n_reach > LOOK, STEPS, 0)):
        middle = between(a, b, step, SHIFT)
        is_many = tl.sum((chunk_top >= at_rank(middle, SHIFT)).to(tl.int32)) > LOOK
        a = tl.where(is_many, middle, a)
        b = tl.where(is_many, b, middle)
    is_first = chunk_top >= at_rank(b, SHIFT)
    n_first = tl.sum(is_first.to(tl.int32))
    is_next = (chunk_top >= floor) & (chunk_top < at_rank(b, SHIFT))
    place = tl.where(is_first, tl.cumsum(is_first.to(tl.int32), 0), n_first + tl.cumsum(is_next.to(tl.int32), 0)) - 1
    is_picked = is_first | (is_next & (place < LOOK))
    n_picked = tl.sum(is_picked.to(tl.int32))
    is_rest = is_next & (place >= LOOK)
    n_rest = tl.sum(is_rest.to(tl.int32))
    tl.debug_barrier()
    tl.store(listing + place, j, mask=is_picked | is_rest)
    tl.debug_barrier()
    next_top = tl.max(tl.where(is_rest, chunk_top, floor))
    _chunk, top1, _i, x1 = read_chunks(start, vocab, listing, tops, 0, n_picked, LOOK)
    f1 = measures(x1, top1, limit, top, c, by_count)
    wanted = target.to(tl.float32)
    b = rank(top, SHIFT) + 1
    if (n_rest == 0) | (tl.sum(tl.where(x1 >= next_top, f1, 0.0)) >= wanted):
        a = rank(next_top, SHIFT)
        for step in range(STEPS):
            middle = between(a, b, step, SHIFT)
            is_reached = tl.sum(tl.where(x1 >= at_rank(middle, SHIFT), f1, 0.0)) >= wanted
            a = tl.where(is_reached, middle, a)
            b = tl.where(is_reached, b, middle)
    else:
        a, b = flat_bracket(
            start, vocab, tops, listing, n_rest, x1, f1, limit, floor, top, c, target, total, by_count, SHIFT
        )
    return a << INDEX_BITS, b << INDEX_BITS
