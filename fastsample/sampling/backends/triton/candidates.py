"""Tokens among which a cut lies: what each adds to the mass, exactly, and which of them is the cut.

Within a chunk tokens are kept in the order of the row's keys. So what a token adds to the mass of its chunk is the
difference of two truncated masses, and the mass of a prefix of the row is the plain sum of what its tokens add.
Candidates are numbered in the order of their indices, those of a chunk side by side.
"""

# mypy: ignore-errors
# (the arguments of Triton's functions get their types from Triton)

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import CHUNK, chunk_scale, mass, weight
from .combine import sum_and_max
from .rows import (
    AMOUNT,
    BY_COUNT,
    BY_MASS,
    FULLEST,
    GATHERED,
    LANES,
    LISTED,
    NUMBER,
    TOKEN,
    before_slices,
    how_many,
    read_chunks,
    read_slices,
    store_of_chunks,
)

READ = tl.constexpr(8)  # chunks that are read at a time
PLACED = tl.constexpr(4)  # and where their tokens are stored
MANY = tl.constexpr(128)  # candidates that are looked at together, a thread each
AHEAD = tl.constexpr(4)  # candidates that each is compared with before it goes on


@triton.jit
def listed(space, j, is_listed, BLOCK: tl.constexpr):
    """Lists chunks in the order of the row, and returns how many they are."""
    n = tl.cumsum(is_listed.to(tl.int32), 0)
    tl.store(space.listing + n - 1, j, mask=is_listed)
    tl.store(space.found + LISTED + j * 0, n.to(tl.int64), mask=j == BLOCK - 1)
    tl.debug_barrier()
    return tl.load(space.found + LISTED).to(tl.int32)


@triton.jit
def count_candidates(row, space, n_listed, low):
    """How many tokens of each listed chunk reach `low`."""
    for first in range(0, n_listed, READ):
        at = first + tl.arange(0, READ)
        chunk = tl.load(space.listing + at, mask=at < n_listed, other=0)
        _i, x = read_chunks(row, chunk, at < n_listed)
        store_of_chunks(space.counts, chunk, how_many(x >= low), at < n_listed)
    tl.debug_barrier()


@triton.jit
def number_candidates(space, j, is_listed, BLOCK: tl.constexpr):
    """The number of each chunk's first candidate. Returns how many there are, and how many one chunk has at most."""
    count = tl.load(space.counts + j, mask=is_listed, other=0)
    n, most = tl.associative_scan((count, count), 0, sum_and_max)
    tl.store(space.firsts + j, n - count, mask=is_listed)
    tl.store(space.found + GATHERED + j * 0, n.to(tl.int64), mask=j == BLOCK - 1)
    tl.store(space.found + FULLEST + j * 0, most.to(tl.int64), mask=j == BLOCK - 1)
    tl.debug_barrier()
    return tl.load(space.found + GATHERED).to(tl.int32), tl.load(space.found + FULLEST).to(tl.int32)


@triton.jit
def place_candidates(row, space, n_listed, low, high):
    """The tokens of the listed chunks that lie in [low, high], each at its number."""
    for first in range(0, n_listed, PLACED):
        at = first + tl.arange(0, PLACED)
        chunk = tl.load(space.listing + at, mask=at < n_listed, other=0)
        number = tl.load(space.firsts + chunk, mask=at < n_listed, other=0)
        i, x = read_slices(row, chunk, at < n_listed)
        is_one = (x >= low) & (x <= high)
        # By warp as they were read. (It holds of no dimension here; a thread stores a token at a time in any case.)
        place = tl.max_contiguous(number[None, :, None] + before_slices(is_one), [1, 2, LANES])
        tl.store(space.tokens + place, i, mask=is_one)
    tl.debug_barrier()


@triton.jit
def weigh(row, space, n, fullest, has_base):
    """The weight of each of n candidates, and what it adds to the tokens of its chunk that come before it.

    `has_base`: space.sums hold the weights of tokens that come before every candidate.
    Returns what all of them add.
    """
    held = tl.zeros([MANY], tl.int64)
    for first in range(0, n, MANY):
        e = first + tl.arange(0, MANY)
        i = tl.load(space.tokens + e, mask=e < n, other=0)
        x = tl.load(row.x + i, mask=e < n, other=0.0).to(tl.float32)
        tl.store(space.x + e, tl.where(e < n, x, float("-inf")))
        tl.store(space.weights + e, weight(x, tl.load(space.tops + i // CHUNK), row.c), mask=e < n)
    tl.debug_barrier()
    for first in range(0, n, MANY):
        e = first + tl.arange(0, MANY)
        x = tl.load(space.x + e, mask=e < n, other=0.0)
        w = tl.load(space.weights + e, mask=e < n, other=0)
        chunk = tl.load(space.tokens + e, mask=e < n, other=0) // CHUNK
        number = tl.load(space.firsts + chunk, mask=e < n, other=0)
        count = tl.load(space.counts + chunk, mask=e < n, other=0)
        before = tl.load(space.sums + chunk, mask=(e < n) & has_base, other=0)
        for k in range(fullest):
            other = number + k
            x_other = tl.load(space.x + other, mask=k < count, other=float("-inf"))
            is_before = (x_other > x) | ((x_other == x) & (other < e))
            before += tl.load(space.weights + other, mask=(k < count) & is_before, other=0)
        scale = chunk_scale(tl.load(space.tops + chunk), row.top, row.c)
        adds = tl.where(e < n, mass(before + w, scale) - mass(before, scale), 0)
        held += adds
        tl.store(space.adds + e, adds + TOKEN)
    tl.store(space.found + BY_COUNT, tl.full((), -1, tl.int64))
    tl.store(space.found + BY_MASS, tl.full((), -1, tl.int64))
    tl.debug_barrier()
    return tl.sum(held)


@triton.jit
def rank_candidates(space, n, by_count, goal):
    """The rank of each candidate and the mass before it. The one with which the number of tokens, or their mass,
    reaches `goal` is `found` behind a barrier, and -1 where none does."""
    for first in range(0, n, MANY):
        e = first + tl.arange(0, MANY)
        x = tl.load(space.x + e)
        before = tl.zeros([MANY], tl.int64)
        for other in range(0, n, AHEAD):
            for k in tl.static_range(AHEAD):
                o = other + k
                x_other = tl.load(space.x + o)
                is_before = (x_other > x) | ((x_other == x) & (o < e))
                before += tl.where(is_before, tl.load(space.adds + o), 0)
        tl.store(space.befores + e, before)
        through = before + tl.load(space.adds + e)
        before = tl.where(by_count, before >> NUMBER, before & AMOUNT)
        through = tl.where(by_count, through >> NUMBER, through & AMOUNT)
        is_end = (e < n) & (before < goal) & (goal <= through)
        tl.store(space.found + tl.where(by_count, BY_COUNT, BY_MASS) + e * 0, e.to(tl.int64), mask=is_end)


@triton.jit
def find_by_mass(space, n, goal):
    """Of ranked candidates, the one with which the mass reaches `goal`."""
    for first in range(0, n, MANY):
        e = first + tl.arange(0, MANY)
        before = tl.load(space.befores + e)
        through = before + tl.load(space.adds + e)
        is_end = (e < n) & ((before & AMOUNT) < goal) & (goal <= (through & AMOUNT))
        tl.store(space.found + BY_MASS + e * 0, e.to(tl.int64), mask=is_end)
