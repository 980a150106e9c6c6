"""Where a filter's cut lies in a row of any kind, roughly: from a sample of the row, then from one reading of it.

A guess decides nothing, so floats will do: `cut` checks it with integers, and looks elsewhere where it was wrong.
"""

# mypy: ignore-errors
# (the arguments of Triton's functions get their types from Triton)

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import LOWEST, at_rank, chunk_scale, rank, weight
from .candidates import listed
from .combine import eight_sums
from .rows import PIECE, WARPS, WIDTH, chunks_reaching, of_chunks, of_threads, read_chunks

SAMPLED = tl.constexpr(16)  # chunks of the sample
PASSED = tl.constexpr(8)  # chunks that are read at a time: with more of them eight sums need too many registers
PARTS = tl.constexpr(7)  # of a window, between eight borders
ROUGH, TURNS = tl.constexpr(2), tl.constexpr(6)  # of parts of parts


@triton.jit
def measures(row, x, chunk_top, low, by_count):
    """float32: the mass of each token, or 1 for each; 0 below `low`."""
    scale = chunk_scale(chunk_top, row.top, row.c).to(tl.float32)[None, :, None]
    f = tl.where(by_count, 1.0, weight(x, chunk_top[None, :, None], row.c).to(tl.float32) * scale)
    return tl.where(x >= low, f, 0.0)


@triton.jit
def reaching(x, f, border):
    """What reaches a border, by thread."""
    return of_threads(tl.where(x >= border, f, 0.0))


@triton.jit
def totals(s):
    """The sums of eight tensors of the same shape, by one reduction of all: eight would take a barrier each."""
    N: tl.constexpr = s[0].shape[0] * s[0].shape[1]
    four = tl.join(tl.join(s[0], s[1]), tl.join(s[2], s[3]))
    eight = tl.join(four, tl.join(tl.join(s[4], s[5]), tl.join(s[6], s[7])))
    return tl.sum(tl.reshape(eight, [N, 2, 2, 2]), 0)


@triton.jit
def n_below(sums, goal):
    """How many of eight sums are below `goal`."""
    return tl.sum(tl.sum(tl.sum((sums < goal).to(tl.int32), 2), 1), 0)


@triton.jit
def value_at(high, low, k):
    """The k-th border of a range of values."""
    part = k * (1.0 / PARTS)
    return tl.where(k == PARTS, low, high * (1.0 - part) + low * part)


@triton.jit
def sampled_window(row, space, lowest_top, cut_x, goal, total, by_count, SHIFT: tl.constexpr):
    """Ranks between which the cut should lie, as chunks spread over the row have it."""
    n_chunks = row.chunks
    n = tl.minimum(n_chunks, SAMPLED)
    at = tl.arange(0, SAMPLED)
    chunk = tl.where(n_chunks < SAMPLED, at, at * n_chunks // SAMPLED)
    _i, x = read_chunks(row, chunk, at < n)
    chunk_top = tl.load(space.tops + chunk, mask=at < n, other=float("-inf"))
    f = measures(row, x, chunk_top, cut_x, by_count) * (n_chunks.to(tl.float32) / n.to(tl.float32))
    # All tokens below `floor` together weigh less than what may be missing from the total; or about twice as far down
    # as the lowest of the chunks' maxima.
    missing = tl.maximum(total - goal, 1).to(tl.float32) / row.vocab.to(tl.float32)
    depth = (tl.log2(missing) - 30.0) / row.c
    depth = tl.where(by_count, -2.0 * (row.top - lowest_top), depth)
    floor = tl.maximum(tl.maximum(row.top + depth, cut_x), LOWEST)
    # By mass the sample stands for what is below the cut: there the chunks are alike.
    offset = tl.where(by_count, 0.0, total.to(tl.float32) - tl.sum(of_chunks(f), 0))
    wanted, slack = goal.to(tl.float32) - offset, 0.0
    high, low = row.top, floor
    for turn in range(TURNS):
        if turn == ROUGH:  # where the cut is, is known well enough to say how far off that may be
            is_tail = tl.where(by_count, x >= high, x <= low)
            of_tail = tl.where(is_tail, f, 0.0)  # squared after that: squares of all would be kept through every turn
            slack = 2.0 * tl.sqrt(tl.sum(of_chunks(of_tail * of_tail), 0))
            high, low = row.top, floor
        s = totals(
            (
                reaching(x, f, high),
                reaching(x, f, value_at(high, low, 1)),
                reaching(x, f, value_at(high, low, 2)),
                reaching(x, f, value_at(high, low, 3)),
                reaching(x, f, value_at(high, low, 4)),
                reaching(x, f, value_at(high, low, 5)),
                reaching(x, f, value_at(high, low, 6)),
                reaching(x, f, low),
            )
        )
        first = tl.maximum(n_below(s, wanted - slack) - 1, 0).to(tl.float32)
        last = tl.minimum(n_below(s, wanted + slack), PARTS).to(tl.float32)
        high, low = value_at(high, low, first), value_at(high, low, last)
    return rank(low, SHIFT), rank(high, SHIFT)


@triton.jit
def border(high, low, k, is_linear, SHIFT: tl.constexpr):
    """The k-th of eight borders of a window of ranks: above `high`, then down to `low`, in equal parts of the values
    or of the ranks, as one of both may be lopsided."""
    value = value_at(at_rank(high, SHIFT), at_rank(low, SHIFT), k)
    even = high + 1 - (high + 1 - low) * k // PARTS
    between = tl.where(is_linear, tl.minimum(tl.maximum(rank(value, SHIFT), low), high), even)
    return tl.where(k == 0, high + 1, between)


@triton.jit
def narrowed(
    row, space, j, low, high, window_low, window_high, is_linear, goal, by_count, BLOCK: tl.constexpr,
    SHIFT: tl.constexpr,
):  # fmt: skip
    """The ranks of [low, high] between two neighbouring borders of a window, by one reading of what reaches it."""
    floor = at_rank(window_low, SHIFT)
    tl.debug_barrier()  # what was listed before may still be read
    n_listed = listed(space, j, chunks_reaching(row, space, j, floor), BLOCK)
    zero = tl.zeros([WARPS, PIECE // WIDTH], tl.float32)
    sums = (zero, zero, zero, zero, zero, zero, zero, zero)
    for first in range(0, n_listed, PASSED):
        at = first + tl.arange(0, PASSED)
        chunk = tl.load(space.listing + at, mask=at < n_listed, other=0)
        _i, x = read_chunks(row, chunk, at < n_listed)
        f = measures(row, x, tl.load(space.tops + chunk), floor, by_count)
        sums = eight_sums(
            *sums,
            reaching(x, f, at_rank(border(window_high, window_low, 0, is_linear, SHIFT), SHIFT)),
            reaching(x, f, at_rank(border(window_high, window_low, 1, is_linear, SHIFT), SHIFT)),
            reaching(x, f, at_rank(border(window_high, window_low, 2, is_linear, SHIFT), SHIFT)),
            reaching(x, f, at_rank(border(window_high, window_low, 3, is_linear, SHIFT), SHIFT)),
            reaching(x, f, at_rank(border(window_high, window_low, 4, is_linear, SHIFT), SHIFT)),
            reaching(x, f, at_rank(border(window_high, window_low, 5, is_linear, SHIFT), SHIFT)),
            reaching(x, f, at_rank(border(window_high, window_low, 6, is_linear, SHIFT), SHIFT)),
            of_threads(f),
        )
    k = n_below(totals(sums), goal.to(tl.float32)).to(tl.int64)
    above, below = tl.maximum(k - 1, 0), tl.minimum(k, PARTS)
    a = tl.where(k > PARTS, low, border(window_high, window_low, below, is_linear, SHIFT))
    b = tl.where(k == 0, high, border(window_high, window_low, above, is_linear, SHIFT) - 1)
    # What is known to be otherwise: floats do not see what the goal hangs on. The lower half of what is left, then: the
    # sweep says exactly in which half to go on. (Counts are exact: fewer than the goal are all that there are.)
    is_lost = ((k == 0) & (window_high >= high)) | ((k > PARTS) & (window_low <= low) & (by_count == 0))
    a = tl.where(is_lost, low, tl.maximum(tl.minimum(a, high), low))
    return a, tl.where(is_lost, low + (high - low) // 2, tl.maximum(tl.minimum(b, high), a))
