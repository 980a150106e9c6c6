"""The contract's two draws: a chunk by its mass, then one of its tokens by its weight."""

# mypy: ignore-errors
# (the arguments of Triton's functions get their types from Triton)

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import CHUNK, at_or_before, chunk_scale, high_product, mass, weight
from .combine import two_sums
from .rows import AMOUNT, BY_COUNT, BY_MASS, DRAWN, LANES, SLICES, TOTAL, read_slices, tops_of

COPIES = tl.constexpr(4)  # of the chunk that is drawn from: one a warp


@triton.jit
def draw_from_sums(row, space, token, j, is_greedy, cut_x, cut_i, u1, u2, BLOCK: tl.constexpr):
    """From the sums of the kept weights, into `token`. Returns its chunk, the weights kept there, and all mass kept."""
    chunk_top = tops_of(row, space, j)
    if is_greedy:  # the first chunk that holds the maximum
        G = (chunk_top == row.top).to(tl.int64)
    else:
        K = tl.load(space.sums + j, mask=j < row.chunks, other=0)
        G = mass(K, chunk_scale(chunk_top, row.top, row.c))
    through = tl.cumsum(G, 0)
    tl.store(space.found + TOTAL + j * 0, through, mask=j == BLOCK - 1)
    tl.debug_barrier()
    total = tl.load(space.found + TOTAL)
    in_row = tl.where(is_greedy, 0, high_product(u1, total.to(tl.uint64)).to(tl.int64))
    is_drawn = (through - G <= in_row) & (in_row < through)
    tl.store(space.found + DRAWN + j * 0, j.to(tl.int64), mask=is_drawn)
    tl.debug_barrier()
    chunk = tl.load(space.found + DRAWN).to(tl.int32)
    # Every warp takes the whole chunk, so that none waits for another: the slice first, then one of its tokens.
    # The 0 that the compiler does not see keeps equal copies apart: one alone would be spread over all warps.
    copy, lane = tl.arange(0, COPIES), tl.arange(0, LANES)
    i, x = read_slices(row, chunk + copy // COPIES, copy >= 0)
    top = tl.load(space.tops + chunk)
    kept = tl.where(at_or_before(x, i, cut_x, cut_i), weight(x, top, row.c), 0)
    w = tl.where(is_greedy, (x == row.top).to(tl.int32), kept)
    of_chunk = tl.load(space.sums + chunk, mask=is_greedy == 0, other=0)
    in_chunk = tl.where(is_greedy, 0, high_product(u2, of_chunk.to(tl.uint64)).to(tl.int64))
    slice = tl.arange(0, SLICES)[:, None]
    # Two sums of 32 bits, each of which is one instruction.
    of_slice = tl.sum(w & 0xFFFF, 2).to(tl.int64) + (tl.sum(w >> 16, 2).to(tl.int64) << 16)
    before = 0 * of_slice
    for k in tl.static_range(SLICES - 1):  # each thread has them all: `cumsum` would go through shared memory
        before += tl.where(slice > k, tl.sum(tl.where(slice == k, of_slice, 0), 0)[None, :], 0)
    is_its = (before <= in_chunk) & (in_chunk < before + of_slice)
    w = tl.sum(tl.where(is_its[:, :, None], w, 0), 0).to(tl.int64)
    in_slice = in_chunk - tl.sum(tl.where(is_its, before, 0), 0)
    i = tl.sum(tl.where(is_its[:, :, None], i, 0), 0)
    through = tl.cumsum(w, 1)
    is_it = (through - w <= in_slice[:, None]) & (in_slice[:, None] < through) & (copy == 0)[:, None]
    at = token + (copy[:, None] // COPIES + lane[None, :] // LANES)
    tl.store(tl.max_contiguous(at, [1, 2]), i.to(tl.int64), mask=is_it)  # by warp as it was found: see `rows.WARPS`
    return chunk, of_chunk, total


@triton.jit
def draw_from_candidates(row, space, token, n, by_count, by_mass, near, u1, u2, CAPACITY: tl.constexpr):
    """The same, and which candidates are kept.

    Prefix sums over candidates are prefix sums over the row, since what one adds is of its chunk alone.
    """
    e = tl.arange(0, CAPACITY)
    x = tl.load(space.x + e, mask=e < n, other=float("-inf"))
    i = tl.load(space.tokens + e, mask=e < n, other=0)
    last = tl.load(space.found + tl.where(by_mass, BY_MASS, BY_COUNT))
    cut_x = tl.load(space.x + last, mask=by_count | by_mass, other=float("-inf"))
    cut_i = tl.load(space.tokens + last, mask=by_count | by_mass, other=0)
    is_kept = (e < n) & at_or_before(x, i, cut_x, cut_i) & ((x - row.top) * row.c >= near)
    adds = tl.load(space.adds + e, mask=is_kept, other=0) & AMOUNT
    w = tl.load(space.weights + e, mask=is_kept, other=0).to(tl.int64)
    through, through_weights = tl.associative_scan((adds, w), 0, two_sums)
    tl.store(space.befores + e, through, mask=e < n)
    tl.store(space.kept + e, through_weights, mask=e < n)
    tl.debug_barrier()
    total = tl.load(space.befores + n - 1)
    in_row = high_product(u1, total.to(tl.uint64)).to(tl.int64)
    is_drawn = (through - adds <= in_row) & (in_row < through)
    tl.store(space.found + DRAWN + e * 0, e.to(tl.int64), mask=is_drawn)
    tl.debug_barrier()
    chunk = tl.load(space.tokens + tl.load(space.found + DRAWN)) // CHUNK
    first, count = tl.load(space.firsts + chunk), tl.load(space.counts + chunk)
    before = tl.load(space.kept + first - 1, mask=first > 0, other=0)
    of_chunk = tl.load(space.kept + first + count - 1) - before
    in_chunk = before + high_product(u2, of_chunk.to(tl.uint64)).to(tl.int64)
    is_it = (through_weights - w <= in_chunk) & (in_chunk < through_weights)
    tl.store(token + e * 0, i.to(tl.int64), mask=is_it)
    return chunk, of_chunk, total, is_kept


@triton.jit
def share(row, space, token, chunk, of_chunk, total):
    """The token's part of all that is kept: of its chunk's weights, and that chunk's of all mass."""
    top = tl.load(space.tops + chunk)
    w = weight(tl.load(row.x + token).to(tl.float32), top, row.c).to(tl.float64)
    of_all = mass(of_chunk, chunk_scale(top, row.top, row.c)).to(tl.float64)
    return w / of_chunk.to(tl.float64) * (of_all / total.to(tl.float64))
