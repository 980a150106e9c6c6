"""Where the filters cut a row, exactly: a guess from a few chunks, checked and settled with integers.

The kept prefix of a row ends at a key (see `arithmetic.key_of`). `find_cut` holds a range [low, high) of keys
that is known to contain the last kept one. A sweep reads the chunks that reach a bracket inside that range once, adds
up exactly what lies above it and in it, and collects what lies in it. Whatever the guess, each sweep leaves less.
"""

# mypy: ignore-errors
# (the arguments of Triton's functions get their types from Triton)

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import (
    CHUNK,
    INDEX_BITS,
    INDEX_MASK,
    LOWEST_RANK,
    at_or_before,
    at_rank,
    chunk_scale,
    key_of,
    logarithm,
    mass,
    rank,
    weight,
)
from .guess import guess, read_chunks

READ = tl.constexpr(8)  # chunks that a sweep reads at a time; 16 spill two registers on sm_120
FEW = tl.constexpr(64)  # candidates that are ranked pair by pair


@triton.jit
def sweep(
    start,
    vocab,
    chunks,
    tops,
    sums,
    listing,
    candidates,
    top,
    c,
    low,
    high,
    BLOCK: tl.constexpr,
    CAPACITY: tl.constexpr,
    SHIFT: tl.constexpr,
):
    """Add up the tokens at or before `high`, and those at or before `low`; collect the keys in between.

    Leaves the sums of the weights at or before `high` in `sums`. Returns their mass, the mass down to `low`, and the
    numbers of tokens above and in between; of the latter the first CAPACITY at most are collected.
    """
    j = tl.arange(0, BLOCK)
    chunk_top = tl.load(tops + j, mask=j < chunks, other=float("-inf"))
    reaches = chunk_top >= at_rank(low >> INDEX_BITS, SHIFT)
    n = tl.sum(reaches.to(tl.int32))
    tl.debug_barrier()
    tl.store(listing + tl.cumsum(reaches.to(tl.int32), 0) - 1, j, mask=reaches)
    tl.store(sums + j, tl.zeros([BLOCK], tl.int64), mask=(j < chunks) & (reaches == 0))
    tl.debug_barrier()
    above = tl.full((), 0, tl.int64)
    down_to_low = tl.full((), 0, tl.int64)
    n_above = tl.full((), 0, tl.int64)
    n_inside = tl.full((), 0, tl.int32)
    for first in range(0, n, READ):
        chunk, t, i, x = read_chunks(start, vocab, listing, tops, first, n, READ)
        w = weight(x, t[:, None], c)
        is_above = at_or_before(x, i, high, SHIFT)
        is_inside = at_or_before(x, i, low, SHIFT) & (is_above == 0)
        weights = tl.sum(tl.where(is_above, w, 0).to(tl.int64), 1)
        inside = tl.sum(tl.where(is_inside, w, 0).to(tl.int64), 1)
        s = chunk_scale(t, top, c)
        is_one = first + tl.arange(0, READ) < n
        above += tl.sum(tl.where(is_one, mass(weights, s), 0))
        down_to_low += tl.sum(tl.where(is_one, mass(weights + inside, s), 0))
        # Both counts in one number: a sum of truth values alone would be packed into bits by way of local memory.
        counts = tl.sum(tl.where(is_above, 1, tl.where(is_inside, 65536, 0)), 1)
        n_above += tl.sum(counts & 0xFFFF).to(tl.int64)
        tl.store(sums + chunk, weights, mask=is_one)
        count = counts >> 16
        n_more = tl.sum(count)
        if (n_more > 0) & (n_inside + n_more <= CAPACITY):
            place = n_inside + (tl.cumsum(count, 0) - count)[:, None] + tl.cumsum(is_inside.to(tl.int32), 1) - 1
            place = tl.where(is_inside, place, -1)  # a mask of its own would go through shared memory beside it
            tl.store(candidates + place, key_of(x, i, SHIFT), mask=place >= 0)
        n_inside += n_more
    tl.debug_barrier()
    return above, down_to_low, n_above, n_inside


@triton.jit
def unpack(keys, is_one, tops, top, c, SHIFT: tl.constexpr):
    """Of candidates: token, chunk, weight and chunk scale."""
    i = ((keys & INDEX_MASK) ^ INDEX_MASK).to(tl.int32)
    chunk = tl.where(is_one, i // CHUNK, 0)
    t = tl.load(tops + chunk)
    w = tl.where(is_one, weight(at_rank(keys >> INDEX_BITS, SHIFT), t, c), 0)
    return chunk, w.to(tl.int64), chunk_scale(t, top, c)


@triton.jit
def narrow(
    tops, sums, candidates, n, top, c, low, high, above, target, by_count, CAPACITY: tl.constexpr, SHIFT: tl.constexpr
):
    """Few candidates that hold the cut: keys of a range [low, high), moved to the front of `candidates`.

    The masses of single tokens are rounded down one by one, so their sum is off by less than 2 n + 2: only candidates
    that come that close to the target stay. The rest is added to `sums`, or dropped. Returns the range, the number of
    those that stay (more than FEW: none was moved or added) and of those added.
    """
    at = tl.arange(0, CAPACITY)
    is_one = at < n
    keys = tl.load(candidates + at, mask=is_one, other=0)
    chunk, w, s = unpack(keys, is_one, tops, top, c, SHIFT)
    measure = tl.where(is_one, tl.where(by_count, 1, mass(w, s)), 0)
    slack = tl.where(by_count, 0, 2 * n + 2).to(tl.int64)
    a, a2, b, b2 = low, low, high, high
    n_stay = n
    while ((b - a > 1) | (b2 - a2 > 1)) & (n_stay > FEW):
        middle = a + (b - a) // 2
        middle2 = a2 + (b2 - a2) // 2
        is_sure = above + tl.sum(tl.where(keys >= middle, measure, 0)) >= target + slack
        is_possible = above + tl.sum(tl.where(keys >= middle2, measure, 0)) >= target - slack
        a = tl.where(is_sure, middle, a)
        b = tl.where(is_sure, b, middle)
        a2 = tl.where(is_possible, middle2, a2)
        b2 = tl.where(is_possible, b2, middle2)
        n_stay = tl.sum((is_one & (keys >= a) & (keys < b2)).to(tl.int32))
    stays = is_one & (keys >= a) & (keys < b2)
    n_added = tl.sum((is_one & (keys >= b2)).to(tl.int64))
    if n_stay <= FEW:
        tl.debug_barrier()
        tl.atomic_add(sums + chunk, w, mask=is_one & (keys >= b2), sem="relaxed")
        tl.store(candidates + tl.cumsum(stays.to(tl.int32), 0) - 1, keys, mask=stays)
        tl.debug_barrier()
    return a, b2, n_stay, n_added


@triton.jit
def settle(tops, sums, candidates, n, top, c, above, n_above, target, by_count, SHIFT: tl.constexpr):
    """The cut among n <= FEW candidates: the last one that the target needs. Adds those kept to `sums`.

    Within a chunk tokens are kept in the order of their keys, so what each adds to its chunk's mass is known exactly.
    Returns the cut's key, the measure reached and the number of tokens kept.
    """
    at = tl.arange(0, FEW)
    is_one = at < n
    keys = tl.load(candidates + at, mask=is_one, other=0)
    chunk, w, s = unpack(keys, is_one, tops, top, c, SHIFT)
    is_not_later = is_one[None, :] & (keys[None, :] >= keys[:, None])
    is_same = is_one[None, :] & (chunk[None, :] == chunk[:, None])
    weights = tl.load(sums + chunk) + tl.sum(tl.where(is_not_later & is_same, w[None, :], 0), 1)
    adds = tl.where(by_count, 1, mass(weights, s) - mass(weights - w, s))
    reached = above + tl.sum(tl.where(is_not_later, adds[None, :], 0), 1)
    is_end = is_one & (reached >= target)
    cut = tl.max(tl.where(is_end, keys, -(2**62)))
    is_kept = is_one & (keys >= cut)
    has_later = tl.sum((is_kept[None, :] & is_same & (keys[None, :] < keys[:, None])).to(tl.int32), 1) > 0
    tl.debug_barrier()
    tl.store(sums + chunk, weights, mask=is_kept & (has_later == 0))
    tl.debug_barrier()
    return cut, n_above + tl.sum(is_kept.to(tl.int64))


@triton.jit
def row_mass(tops, sums, top, c, chunks, BLOCK: tl.constexpr):
    """The mass of the whole row, from its chunks' sums of weights."""
    j = tl.arange(0, BLOCK)
    s = chunk_scale(tl.load(tops + j, mask=j < chunks, other=float("-inf")), top, c)
    return tl.sum(mass(tl.load(sums + j, mask=j < chunks, other=0), s))


@triton.jit
def min_p_key(top, c, min_p, SHIFT: tl.constexpr):
    """The key down to which tokens are near enough to the row's maximum: a search over float32, of no memory."""
    is_on = min_p > 0
    threshold = (logarithm(tl.where(is_on, min_p, 1.0).to(tl.float64)) * 1.4426950408889634).to(tl.float32)
    b = rank(top, SHIFT)
    a = tl.where(is_on, (LOWEST_RANK >> SHIFT) - 1, b - 1)
    while b - a > 1:
        middle = a + (b - a) // 2
        is_near = (at_rank(middle, SHIFT) - top) * c >= threshold
        a = tl.where(is_near, a, middle)
        b = tl.where(is_near, middle, b)
    return tl.where(is_on, b, LOWEST_RANK >> SHIFT) << INDEX_BITS


@triton.jit
def middle_part(low, high, vocab, n, missing, inside, CAPACITY: tl.constexpr):
    """Where to look in [low, high), whose n tokens measure `inside`, for the one that completes `missing`.

    The middle half; among tokens of one logit, which differ by index alone, as many as fit around the likely place, and
    never more than half.
    """
    last = high - 1
    is_one_logit = (low >> INDEX_BITS) == (last >> INDEX_BITS)
    first = tl.maximum(low, ((last >> INDEX_BITS) << INDEX_BITS) + INDEX_MASK - vocab)
    span = (high - first).to(tl.float64)
    place = high - (span * (missing.to(tl.float64) / inside.to(tl.float64))).to(tl.int64)
    near = (span * tl.minimum(0.25 * CAPACITY / n.to(tl.float64), 0.25)).to(tl.int64) + 1
    quarter = (high - low) // 4
    a = tl.where(is_one_logit, tl.maximum(place - near, low), low + quarter)
    return a, tl.where(is_one_logit, tl.maximum(tl.minimum(place + near, high), a + 1), high - quarter)


@triton.jit
def find_cut(
    start, vocab, chunks, tops, sums, listing, candidates, top, c, k, p, m,
    BLOCK: tl.constexpr, CAPACITY: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """top_k, then top_p relative to it, then min_p: the key of the last token kept, and how many are kept.

    Leaves the sums of the kept weights in `sums`, so that the draw reads one chunk.
    """
    cut = tl.full((), LOWEST_RANK >> SHIFT, tl.int64) << INDEX_BITS
    n_kept = vocab.to(tl.int64)
    end = (rank(top, SHIFT) + 1) << INDEX_BITS
    near = min_p_key(top, c, m, SHIFT)
    for phase in range(3):
        by_count = phase == 0
        is_on = (
            ((phase == 0) & (k > 0) & (k < vocab)) | ((phase == 1) & (p < 1)) | ((phase == 2) & (m > 0) & (near >= cut))
        )
        if is_on:
            low, high = cut, end  # the tokens down to `low` reach the target, those down to `high` do not
            total = row_mass(tops, sums, top, c, chunks, BLOCK)
            mass_target = tl.ceil(total.to(tl.float64) * p.to(tl.float64))
            target = tl.where(by_count, k.to(tl.int64), mass_target.to(tl.int64))
            a, b = near, near
            if phase < 2:
                a, b = guess(start, vocab, chunks, tops, listing, top, c, low, target, total, by_count, BLOCK, SHIFT)
                a = tl.maximum(tl.minimum(a, high - 1), low)
                b = tl.minimum(tl.maximum(b, a + 1), high)
            is_open = True
            while is_open:
                above, down_to_a, n_above, n_inside = sweep(
                    start, vocab, chunks, tops, sums, listing, candidates, top, c, a, b, BLOCK, CAPACITY, SHIFT
                )
                reached = tl.where(by_count, n_above, above)
                if a == b:  # the cut was known
                    cut = a
                    n_kept = tl.where(phase == 2, tl.minimum(n_kept, n_above), k.to(tl.int64))
                    is_open = False
                elif reached >= target:  # the cut is higher
                    low = b
                    b = tl.minimum(high, b + 8 * (b - a))
                    a = low
                elif tl.where(by_count, n_above + n_inside, down_to_a) < target:  # it is lower
                    if a == low:  # top_k of more tokens than are finite cuts nothing off
                        b = a
                    else:
                        high = a
                        a = tl.maximum(low, a - 8 * (b - a))
                        b = high
                else:
                    low, high = a, b
                    n_stay = n_inside
                    n_added = tl.full((), 0, tl.int64)
                    if (n_inside > FEW) & (n_inside <= CAPACITY):
                        a, b, n_stay, n_added = narrow(
                            tops,
                            sums,
                            candidates,
                            n_inside,
                            top,
                            c,
                            low,
                            high,
                            reached,
                            target,
                            by_count,
                            CAPACITY,
                            SHIFT,
                        )
                        if n_stay <= FEW:
                            above = row_mass(tops, sums, top, c, chunks, BLOCK)
                            reached = tl.where(by_count, n_above + n_added, above)
                    if n_stay <= FEW:
                        cut, n_kept = settle(
                            tops, sums, candidates, n_stay, top, c, reached, n_above + n_added, target, by_count, SHIFT
                        )
                        is_open = False
                    elif n_stay * 2 > n_inside:  # no headway among the candidates, or too many
                        down = tl.where(by_count, n_above + n_inside, down_to_a)
                        a, b = middle_part(low, high, vocab, n_inside, target - reached, down - reached, CAPACITY)
    return cut, n_kept
