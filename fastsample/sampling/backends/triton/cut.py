"""Where the filters cut a row of any kind, exactly: flat ones, ties, vocabularies of a million.

A guess says between which ranks the cut lies. A sweep then leaves, for each chunk, the weights above those ranks and
the number of tokens between them. Few tokens are settled as candidates; ties, however many, by one scan over the
chunks. Where neither is possible, or the cut lies elsewhere, there are fewer ranks left for the next turn.
"""

# mypy: ignore-errors
# (the arguments of Triton's functions get their types from Triton)

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import (
    CHUNK,
    LAST,
    LOWEST,
    at_or_before,
    at_rank,
    chunk_scale,
    mass,
    mass_target,
    rank,
    weight,
)
from .candidates import MANY, READ, listed, number_candidates, place_candidates, rank_candidates, weigh
from .combine import sum_and_two_maxima, three_sums, two_sums
from .guess import narrowed, sampled_window
from .rows import (
    AMOUNT,
    BY_COUNT,
    BY_MASS,
    NUMBER,
    PIECE,
    WIDTH,
    chunks_reaching,
    of_chunks,
    read_chunks,
    store_of_chunks,
    tops_of,
)


@triton.jit
def row_mass(row, space, j):
    """The mass of what `sums` hold."""
    sums = tl.load(space.sums + j, mask=j < row.chunks, other=0)
    return tl.sum(mass(sums, chunk_scale(tops_of(row, space, j), row.top, row.c)))


@triton.jit
def sweep(row, space, j, low, high, BLOCK: tl.constexpr):
    """Leaves in `sums` what lies above `high`, and in `counts` how many tokens lie in [low, high].

    Returns the mass and the number of tokens above, and the number of those in between.
    """
    tl.debug_barrier()  # what was listed before may still be read
    reaches = chunks_reaching(row, space, j, low)
    n_listed = listed(space, j, reaches, BLOCK)
    above, n_above, n_inside = (
        tl.zeros([READ], tl.int64), tl.zeros([READ], tl.int32), tl.zeros([READ], tl.int32)
    )  # fmt: skip
    for first in range(0, n_listed, READ):
        at = first + tl.arange(0, READ)
        chunk = tl.load(space.listing + at, mask=at < n_listed, other=0)
        _i, x = read_chunks(row, chunk, at < n_listed)
        top = tl.load(space.tops + chunk)
        w = tl.where(x > high, weight(x, top[None, :, None], row.c), 0)
        # A thread's sum has 33 bits: its halves fit into sums of 32.
        mine = tl.sum(tl.reshape(tl.sum(w.to(tl.uint32), 0), [READ, PIECE // WIDTH, WIDTH]).to(tl.int64), 2)
        lower = tl.sum((mine & 0xFFFFFF).to(tl.int32), 1)
        upper = tl.sum((mine >> 24).to(tl.int32), 1)
        weights = lower.to(tl.int64) + (upper.to(tl.int64) << 24)
        # Both counts in one number.
        counts = of_chunks(tl.where(x > high, 1, tl.where(x >= low, 65536, 0)))
        is_one = at < n_listed
        above += tl.where(is_one, mass(weights, chunk_scale(top, row.top, row.c)), 0)
        n_above += counts & 0xFFFF
        n_inside += counts >> 16
        store_of_chunks(space.sums, chunk, weights | ((counts >> 16).to(tl.int64) << NUMBER), is_one)
    above, n_above, n_inside = tl.reduce((above, n_above, n_inside), 0, three_sums)
    tl.debug_barrier()
    # That they are of the row is said once more for ptxas, which on sm_100 leaves fewer registers to what it makes
    # without it, and spills: see `second_options`.
    both = tl.load(space.sums + j, mask=reaches & (j < row.chunks), other=0)
    tl.store(space.sums + j, both & AMOUNT, mask=j < row.chunks)
    tl.store(space.counts + j, (both >> NUMBER).to(tl.int32), mask=j < row.chunks)
    tl.debug_barrier()
    return above, n_above, n_inside


@triton.jit
def settle(row, space, j, low, high, by_count, goal, BLOCK: tl.constexpr):
    """The cut among the tokens in [low, high], whose goal is `goal`: the number of a candidate, or -1 where it is none
    of them. Adds those that are kept to `sums`."""
    is_listed = tl.load(space.counts + j, mask=j < row.chunks, other=0) > 0
    tl.debug_barrier()  # what was listed before may still be read
    n_listed = listed(space, j, is_listed, BLOCK)
    n, fullest = number_candidates(space, j, is_listed, BLOCK)
    place_candidates(row, space, n_listed, low, high)
    weigh(row, space, n, fullest, True)
    rank_candidates(space, n, by_count, goal)
    tl.debug_barrier()
    last = tl.load(space.found + tl.where(by_count, BY_COUNT, BY_MASS)).to(tl.int32)
    if last >= 0:
        cut_x, cut_i = tl.load(space.x + last), tl.load(space.tokens + last)
        for first in range(0, n, MANY):
            e = first + tl.arange(0, MANY)
            i = tl.load(space.tokens + e, mask=e < n, other=0)
            x = tl.load(space.x + e, mask=e < n, other=float("-inf"))
            w = tl.load(space.weights + e, mask=e < n, other=0).to(tl.int64)
            is_kept = (e < n) & at_or_before(x, i, cut_x, cut_i)
            tl.atomic_add(space.sums + i // CHUNK, w, mask=is_kept, sem="relaxed")
        tl.debug_barrier()
    return last


@triton.jit
def ties_add(row, weights, each, n, top, by_count):
    """What the first n ties of a chunk add to the measure of what lies above them."""
    scale = chunk_scale(top, row.top, row.c)
    return tl.where(by_count, n.to(tl.int64), mass(weights + n * each, scale) - mass(weights, scale))


@triton.jit
def weights_of_tie(row, space, j, n, tie, BLOCK: tl.constexpr):
    """What one of the n ties of each chunk weighs."""
    each = weight(tl.full([BLOCK], 0.0, tl.float32) + tie, tops_of(row, space, j), row.c)
    return tl.where(n > 0, each.to(tl.int64), 0)


@triton.jit
def settle_ties(row, space, j, tie, by_count, goal, BLOCK: tl.constexpr):
    """The cut among tokens of one value, kept in the order of the row: the last token kept, or -1 where it is none of
    them, and how many of them are kept. Adds these to `sums`."""
    n = tl.load(space.counts + j, mask=j < row.chunks, other=0)
    weights = tl.load(space.sums + j, mask=j < row.chunks, other=0)
    each, chunk_top = weights_of_tie(row, space, j, n, tie, BLOCK), tops_of(row, space, j)
    adds = ties_add(row, weights, each, n, chunk_top, by_count)
    reached, n_through = tl.associative_scan((adds, n), 0, two_sums)
    is_short = reached < goal
    chunk, before, n_before = tl.reduce(
        (is_short.to(tl.int32), tl.where(is_short, reached, 0), tl.where(is_short, n_through, 0)), 0, sum_and_two_maxima
    )
    last, n_kept = tl.full((), -1, tl.int32), tl.full((), 0, tl.int32)
    if chunk < BLOCK:
        # Its ties: the first k + 1 of them, of which the k-th entry looks at one number.
        k = tl.arange(0, CHUNK)
        i = chunk * CHUNK + k
        is_tie = tl.load(row.x + i, mask=i < row.vocab, other=float("-inf")).to(tl.float32) == tie
        top, of_it = tl.load(space.tops + chunk), tl.load(space.sums + chunk)
        one = weight(tie, top, row.c).to(tl.int64)
        is_early = before + ties_add(row, of_it, one, k + 1, top, by_count) < goal
        taken = tl.sum(is_early.to(tl.int32)) + 1
        last = tl.max(tl.where(is_tie & (tl.cumsum(is_tie.to(tl.int32), 0) == taken), i, -1))
        # Loaded again: what waits through the scan would be spilled.
        n = tl.load(space.counts + j, mask=j < row.chunks, other=0)
        weights = tl.load(space.sums + j, mask=j < row.chunks, other=0)
        each = weights_of_tie(row, space, j, n, tie, BLOCK)
        kept = tl.where(j < chunk, n, tl.where(j == chunk, taken, 0))
        tl.store(space.sums + j, weights + kept * each, mask=j < row.chunks)
        tl.debug_barrier()
        n_kept = n_before + taken
    return last, n_kept


@triton.jit
def near_rank(row, near, SHIFT: tl.constexpr):
    """The lowest rank that is near enough to the row's maximum: a search of no memory."""
    a, b = rank(tl.full((), LOWEST, tl.float32), SHIFT) - 1, rank(row.top, SHIFT)
    while b - a > 1:
        middle = a + (b - a) // 2
        is_near = (at_rank(middle, SHIFT) - row.top) * row.c >= near
        a = tl.where(is_near, a, middle)
        b = tl.where(is_near, middle, b)
    return b


@triton.jit
def find_cut(
    row, space, j, lowest_top, k, p, near, BLOCK: tl.constexpr, CAPACITY: tl.constexpr, SHIFT: tl.constexpr
):  # fmt: skip
    """top_k, then top_p relative to it, then min_p: logit and index of the last token kept, and how many are kept.

    Leaves the sums of the kept weights in `sums`, so that the draw reads one chunk.
    """
    cut_x, cut_i = tl.full((), LOWEST, tl.float32), tl.full((), LAST, tl.int32)
    n_kept = row.vocab
    for phase in range(3):
        by_count, is_near = phase == 0, phase == 2
        is_open = tl.where(by_count, (k > 0) & (k < row.vocab), tl.where(is_near, near > float("-inf"), p < 1))
        # The tokens down to `low` reach the goal, those above `high` do not.
        low, high = rank(cut_x, SHIFT), rank(row.top, SHIFT)
        a, b = low, high
        goal = k.to(tl.int64)
        near_x = cut_x
        if is_open:
            if is_near:
                nearest = near_rank(row, near, SHIFT)
                near_x = at_rank(nearest, SHIFT)
                is_open = (near_x > cut_x) | ((near_x == cut_x) & (cut_i == LAST))  # no filter cut there or higher
                a = tl.where(nearest == 0, -2, nearest - 1)
            else:
                total = tl.full((), 0, tl.int64)
                if phase > 0:
                    total = row_mass(row, space, j)
                    goal = mass_target(total, p)
                a, b = sampled_window(row, space, lowest_top, cut_x, goal, total, by_count, SHIFT)
                a = tl.maximum(tl.minimum(a, high), low)
                b = tl.maximum(tl.minimum(b, high), a)
        is_known, is_linear = is_near, phase >= 0  # where to cut; how to look for it
        while is_open:
            if is_known == 0:
                a, b = narrowed(row, space, j, low, high, a, b, is_linear, goal, by_count, BLOCK, SHIFT)
                is_linear = is_linear == 0
            from_, to = at_rank(a, SHIFT), at_rank(tl.where(is_known, a, b), SHIFT)
            if is_known & (is_near == 0):
                from_, to = float("-inf"), float("-inf")
            above, n_above, n_inside = sweep(row, space, j, from_, to, BLOCK)
            left = goal - tl.where(by_count, n_above.to(tl.int64), above)
            last = tl.full((), -1, tl.int32)
            if is_known:
                is_open = False
                if is_near:
                    cut_x, cut_i = near_x, tl.full((), LAST, tl.int32)
                n_kept = tl.where(is_near, tl.minimum(n_above, n_kept), k)
            elif left <= 0:  # the cut is higher
                low = b + 1
                a, b = low, high
            else:
                high = b
                is_settled = False
                if a == b:
                    is_settled = True
                    last, n_ties = settle_ties(row, space, j, from_, by_count, left, BLOCK)
                    if last >= 0:
                        cut_x, cut_i, n_kept = from_, last, n_above + n_ties
                elif n_inside <= CAPACITY:
                    is_settled = True
                    e = settle(row, space, j, from_, to, by_count, left, BLOCK)
                    if e >= 0:
                        cut_x, last = tl.load(space.x + e), tl.load(space.tokens + e)
                        cut_i, n_kept = last, n_above + (tl.load(space.befores + e) >> NUMBER).to(tl.int32) + 1
                if is_settled:
                    is_open = last < 0
                    high = a - 1
                    a, b = low, high
            is_known = is_open & (low > high)  # top_k of more tokens than are finite cuts nothing off
    return cut_x, cut_i, n_kept
