"""A row of logits and its scratch memory, as the two kernels see them, and how its chunks are read.

Names with a capital are tuples: Triton passes them on as one argument.
"""

# mypy: ignore-errors
# (the arguments of Triton's functions get their types from Triton)

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .arithmetic import CHUNK
from .combine import two_sums

BINS = tl.constexpr(256)  # of a histogram of the chunks' maxima
NUMBER = tl.constexpr(48)  # from this bit on an int64 counts tokens, below it are their weights or masses
TOKEN, AMOUNT = tl.constexpr(2**48), tl.constexpr(2**48 - 1)
# Places of `Space.found`: what one thread found and all read behind a barrier, which is cheaper than a reduction.
PART, LISTED, GATHERED, FULLEST, BY_COUNT, BY_MASS, TOTAL, DRAWN, PLACES = (tl.constexpr(i) for i in range(9))


class Row(NamedTuple):
    """What is known of it."""

    x: tl.tensor  # pointer to its first logit
    vocab: tl.tensor
    vectors: tl.tensor  # tokens below this one may be read 16 bytes at a time: a multiple of their number in 16 bytes
    chunks: tl.tensor
    c: tl.tensor  # log2(e) / temperature
    top: tl.tensor  # the highest logit


class Space(NamedTuple):
    """Pointers. First: values a chunk.

    Nothing is promised of their alignment. With it, loads of 4 and of 8 bytes a value would be spread over the threads
    differently, and what goes from one to the other would go through shared memory, by two barriers.
    """

    sums: tl.tensor  # int64: of its weights, later of the kept ones
    tops: tl.tensor  # float32: its maximum, NaN where it holds one
    listing: tl.tensor  # int32: chunks that are read again, in the order of the row
    counts: tl.tensor  # int32: its candidates
    firsts: tl.tensor  # int32: the number of the first of them
    moments: tl.tensor  # 3 float32, in rows of `chunks`: of e^(x - top), (x - top) e^(x - top) and x - top
    adds: tl.tensor  # int64, a value a candidate from here on: what it adds to the mass of those before it, and a 1
    befores: tl.tensor  # int64: the sum of that over the candidates before it
    kept: tl.tensor  # int64: the weights of the kept ones with a lower or its own index
    x: tl.tensor  # float32: its logit
    weights: tl.tensor  # int32
    tokens: tl.tensor  # int32
    bins: tl.tensor  # BINS int64, zeros at first
    found: tl.tensor  # PLACES int64


@triton.jit
def space_of(memory, b, words, chunks, CAPACITY: tl.constexpr):
    """Of row b: `words` of 8 bytes; `launch.words` counts them."""
    at = memory + b.to(tl.int64) * words
    sums, adds, befores, kept = at, at + chunks, at + chunks + CAPACITY, at + chunks + 2 * CAPACITY
    bins = kept + CAPACITY
    found = bins + BINS
    ints = (found + PLACES).to(tl.pointer_type(tl.int32), bitcast=True)
    tokens, weights, listing = ints, ints + CAPACITY, ints + 2 * CAPACITY
    counts, firsts = listing + chunks, listing + 2 * chunks
    x = (listing + 3 * chunks).to(tl.pointer_type(tl.float32), bitcast=True)
    return Space(
        sums=sums, tops=x + CAPACITY, listing=listing, counts=counts, firsts=firsts, moments=x + CAPACITY + chunks,
        adds=adds, befores=befores, kept=kept, x=x, weights=weights, tokens=tokens, bins=bins, found=found,
    )  # fmt: skip


@triton.jit
def tops_of(row, space, j):
    """The maxima of chunks j; -inf where there is none. Loaded where they are needed: kept, they and what is computed
    of them would be spilled."""
    return tl.load(space.tops + j, mask=j < row.chunks, other=float("-inf"))


@triton.jit
def chunks_reaching(row, space, j, low):
    """Which of the chunks j have a token that is `low` or higher. Those beyond the row have none, and `low` may be
    -inf: nothing but NaN is below that."""
    return tl.load(space.tops + j, mask=j < row.chunks, other=float("nan")) >= low


@triton.jit
def row_start(logits, stride, count, indices, b, is_given):
    """Where output b's row starts, and whether there is such a row. Offsets are 64 bits wide."""
    row = tl.load(indices + b, mask=is_given, other=b.to(tl.int64))
    is_row = (row >= 0) & (row < count)
    return logits + tl.where(is_row, row, 0) * stride, is_row


@triton.jit
def is_aligned(start):
    """Whether a row starts at 16 bytes."""
    return start.to(tl.int64) % 16 == 0


@triton.jit
def skipped_of(start):
    """Tokens before the first 16 bytes of a row."""
    return ((16 - start.to(tl.int64) % 16) % 16).to(tl.int32) * 8 // start.dtype.element_ty.primitive_bitwidth


@triton.jit
def vectors_of(start, vocab):
    """Tokens in whole vectors of 16 bytes; none where the row does not start at 16 bytes."""
    VECTOR: tl.constexpr = 128 // start.dtype.element_ty.primitive_bitwidth
    return tl.where(is_aligned(start), vocab, 0) // VECTOR * VECTOR


@triton.jit
def read(row, at, i, is_one):
    """float32 logits of tokens i, to which `at` points; -inf where there is none.

    What `at` promises about its alignment is not always so: the mask of the first load, of whole vectors, keeps it. On
    the second load, whose mask is by token, it has no effect but that both are spread over the threads alike.
    """
    x = tl.load(at, mask=is_one & (i < row.vectors), other=float("-inf")).to(tl.float32)
    if row.vectors < row.vocab:
        rest = is_one & (i >= row.vectors) & (i < row.vocab)
        x = tl.maximum(x, tl.load(at, mask=rest, other=float("-inf")).to(tl.float32))
    return x


# Chunks [N] are read as [PIECES, N, PIECE]: a warp has a chunk, a thread WIDTH neighbours of each piece, as many as
# there are 32-bit numbers in 16 bytes, so that tokens and what comes of them are spread over the threads alike.
PIECES, PIECE, WIDTH = tl.constexpr(2), tl.constexpr(128), tl.constexpr(4)
WARPS = tl.constexpr(4)  # of 32 threads: chunk n is of warp n % WARPS
# What is most contiguous Triton spreads over lanes, and what comes next over warps. Of dimensions that are equally so,
# Triton before 3.7 takes the first one: the pieces of a chunk, whose sums would then go through shared memory. Hence
# `max_contiguous`, which says 2 of the chunks: it is not so, and nothing but this order is made of it. It is said where
# places are computed: said by a function of its argument, it is lost.


@triton.jit
def tokens_of(chunk):
    """Tokens [PIECES, N, PIECE] of chunks [N]."""
    piece = tl.arange(0, PIECES)[:, None, None] * PIECE + tl.arange(0, PIECE)[None, None, :]
    return tl.max_contiguous(chunk[None, :, None] * CHUNK + piece, [1, 2, PIECE])


@triton.jit
def read_chunks(row, chunk, is_one):
    """Their tokens and logits. Those that are not `is_one` are empty."""
    BYTES: tl.constexpr = WIDTH * row.x.dtype.element_ty.primitive_bitwidth // 8
    i = tokens_of(chunk)
    return i, read(row, tl.multiple_of(row.x + i, [1, 1, BYTES]), i, is_one[None, :, None])


@triton.jit
def of_threads(f):
    """Sums of what each thread has of chunks: [PIECES, N, PIECE] to [WARPS, PIECE / WIDTH]."""
    f = tl.sum(f, 0)
    f = tl.sum(tl.reshape(f, [f.shape[0], PIECE // WIDTH, WIDTH]), 2)
    return tl.sum(tl.reshape(f, [f.shape[0] // WARPS, WARPS, PIECE // WIDTH]), 0)


@triton.jit
def of_chunks(f):
    """Sums [N] of chunks."""
    return tl.sum(tl.sum(f, 0), 1)


@triton.jit
def how_many(is_one):
    """Of each chunk [N]. Sums of truth values would be packed into bits by way of local memory: hence the 65536."""
    return of_chunks(tl.where(is_one, 65536, 1)) >> 16


@triton.jit
def store_of_chunks(pointer, chunk, value, is_one):
    """A value [N] a chunk, stored by the warp that has the chunk: [N] alone would go through shared memory first."""
    lane = tl.arange(0, LANES)[None, :]
    tl.store(pointer + chunk[:, None] + lane, value[:, None], mask=is_one[:, None] & (lane == 0))


# Where something is stored of single tokens, chunks are read as [SLICES, N, LANES], a token a lane: as it is stored.
SLICES, LANES = tl.constexpr(8), tl.constexpr(32)


@triton.jit
def read_slices(row, chunk, is_one):
    """Tokens and logits of chunks [N]."""
    i = tl.arange(0, SLICES)[:, None, None] * LANES + tl.arange(0, LANES)[None, None, :]
    i = tl.max_contiguous(chunk[None, :, None] * CHUNK + i, [1, 2, LANES])
    x = tl.load(row.x + i, mask=is_one[None, :, None] & (i < row.vocab), other=float("-inf"))
    return i, x.to(tl.float32)


@triton.jit
def before_slices(is_one):
    """How many tokens of a chunk there are before each. A byte counts for a slice: eight prefix sums are two."""
    slice = tl.arange(0, SLICES)[:, None, None]
    in_upper, shift = slice >= 4, 8 * (slice % 4)
    mine = tl.where(is_one, tl.full((), 1, tl.uint32) << shift.to(tl.uint32), 0)
    lower, upper = tl.sum(tl.where(in_upper, 0, mine), 0), tl.sum(tl.where(in_upper, mine, 0), 0)
    # Of all lanes: byte k of a number times 0x01010100 is the sum of its bytes below k.
    of_lower, of_upper = tl.sum(lower, 1)[:, None], tl.sum(upper, 1)[:, None]
    from_upper = ((of_lower * 0x01010101) >> 24) * 0x01010101
    through_lower, through_upper = tl.associative_scan((lower, upper), 1, two_sums)
    before_lower = of_lower * 0x01010100 + through_lower - lower
    before_upper = of_upper * 0x01010100 + through_upper - upper + from_upper
    before = tl.where(in_upper, before_upper[None, :, :], before_lower[None, :, :])
    return ((before >> shift.to(tl.uint32)) & 255).to(tl.int32)
