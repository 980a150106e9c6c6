"""The filters and the draw where few chunks can hold a kept token: a threshold on chunk maxima, and one gather of the
tokens that reach it."""

# mypy: ignore-errors
# (the arguments of Triton's functions get their types from Triton)

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import LOWEST, chunk_scale, mass, mass_target
from .candidates import (
    count_candidates,
    find_by_mass,
    listed,
    number_candidates,
    place_candidates,
    rank_candidates,
    weigh,
)
from .rows import AMOUNT, BINS, BY_COUNT, PART, tops_of

MOST = tl.constexpr(256)  # chunks that a shortlist has at most
MOST_COUNTED = tl.constexpr(384)  # of top_k: as many candidates and some more fit
TRIES = tl.constexpr(5)
COUNTED = tl.constexpr(1 << 40)  # one chunk in a bin


@triton.jit
def high_chunks(row, space, j, chunk_top, masses, low, high, by_count, goal, total):
    """A value that the maxima of enough chunks reach, from a histogram of them. It decides nothing.

    By mass, some of these chunks' mass is of tokens below that value. Each is taken to have as much of it as the
    chunks have on average, whose tokens below it are to weigh 0.6 of what may be missing: a little less, so that as a
    rule the first guess is low enough.
    """
    per = tl.where(high > low, (1.0 / (high - low)) * BINS, 0.0)
    part = tl.minimum(((high - chunk_top) * per).to(tl.int32), BINS - 1)
    # Their number, and from the lowest bit on their mass in units of 2^12.
    tl.atomic_add(space.bins + part, (masses >> 12) + COUNTED, mask=chunk_top >= low, sem="relaxed")
    tl.debug_barrier()
    bin = tl.arange(0, BINS)
    held = tl.load(space.bins + bin)
    missing = ((total - goal).to(tl.float64) * (0.6 / 4096)).to(tl.int64)
    in_bin = tl.maximum((held & (COUNTED - 1)) - (held >> 40) * (missing // row.chunks), 0)
    held = tl.where(by_count, held >> 40, in_bin)
    through = tl.cumsum(held, 0)
    enough = tl.where(by_count, goal, tl.maximum((total >> 12) - missing, 1))
    is_it = (through - held < enough) & ((enough <= through) | (bin == BINS - 1))
    tl.store(space.found + PART + bin * 0, bin.to(tl.int64), mask=is_it)
    tl.debug_barrier()
    part = tl.load(space.found + PART)
    low_enough = high - (part + 1).to(tl.float32) / per - tl.where(by_count, 0.0, 1.0 / row.c)
    return tl.where(part < BINS - 1, low_enough, low)


@triton.jit
def shortlist(
    row, space, j, lowest, is_counted, k, p, near, BLOCK: tl.constexpr, CAPACITY: tl.constexpr
):  # fmt: skip
    """Gathers candidates, and finds the cut among them.

    Returns how many there are, of which `found` at BY_MASS or BY_COUNT is the last one kept where `is_cut`; 0 where
    the row is not of this kind.
    """
    is_massed = (is_counted == 0) & (p < 1)
    sums = tl.load(space.sums + j, mask=(j < row.chunks) & is_massed, other=0)
    chunk_top = tops_of(row, space, j)
    masses = mass(sums, chunk_scale(chunk_top, row.top, row.c))
    goal, total, from_ = k.to(tl.int64), tl.full((), 0, tl.int64), row.top
    if is_counted | is_massed:
        if is_massed:
            total = tl.sum(masses)
            goal = mass_target(total, p)
        low = tl.where(is_counted, lowest, tl.maximum(lowest, row.top - 64.0 / row.c))
        from_ = high_chunks(row, space, j, chunk_top, masses, low, row.top, is_counted, goal, total)
    else:
        from_ = row.top + (near - 0.01) / row.c
    n = tl.full((), 0, tl.int32)
    tries = tl.where(is_counted & (k > MOST_COUNTED), TRIES, 0)
    while tries < TRIES:
        tries += 1
        from_ = tl.where(from_ >= LOWEST, from_, LOWEST)
        is_listed = tops_of(row, space, j) >= from_
        n_listed = listed(space, j, is_listed, BLOCK)
        if n_listed > MOST:
            tries = TRIES
        else:
            count_candidates(row, space, n_listed, from_)
            gathered, fullest = number_candidates(space, j, is_listed, BLOCK)
            if gathered > CAPACITY:
                tries = TRIES
            elif (gathered >= k) | (is_counted == 0):
                place_candidates(row, space, n_listed, from_, float("inf"))
                held = weigh(row, space, gathered, fullest, False)
                n = gathered
                if is_massed & (held < goal):
                    n = tl.full((), 0, tl.int32)
                elif is_counted | is_massed:
                    rank_candidates(space, gathered, is_counted, goal)
                    tl.debug_barrier()
                    if is_counted & (p < 1):
                        e = tl.load(space.found + BY_COUNT)
                        through = tl.load(space.befores + e) + tl.load(space.adds + e)
                        goal = mass_target(through & AMOUNT, p)
                        find_by_mass(space, gathered, goal)
                        tl.debug_barrier()
                elif (from_ > LOWEST) & ((from_ - row.top) * row.c >= near):
                    n = tl.full((), 0, tl.int32)  # tokens that are no candidates may be as near
                    tries = TRIES
            if n > 0:
                tries = TRIES
            else:
                tries = tl.where(from_ > LOWEST, tries, TRIES)
                # Far where the candidates, too few, cost little, so that there are not many turns.
                step = tl.where(gathered < 32, tl.where(gathered < 12, 4.0, 3.0), tl.where(gathered < 192, 2.0, 1.0))
                from_ -= step / row.c
                tl.debug_barrier()  # the lists may still be read
    return n
