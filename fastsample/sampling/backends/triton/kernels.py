"""The two Triton kernels: `chunk_statistics` reads each row once, `finish_rows` turns what it left into tokens.

Bytes of global memory per row of V tokens: the first kernel reads V * element size and writes 4 or 12 bytes per 256
tokens (12 more with statistics). The second reads those, and where a filter is on the chunks that can hold a kept
token, from cache: a few of them twice, or all of them two or three times where the row is flat.

There is one compiled kernel for a type of logits, statistics or none, and a power of two of chunks. Nothing else may
make a new one, which takes up to half a minute: every argument has a type of its own, no value or alignment of one is
looked at, and `given` says which columns are there.
"""

# mypy: ignore-errors
# (the arguments of Triton's functions get their types from Triton)

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import (
    CHUNK,
    LAST,
    LOG2E,
    inverse_temperature,
    logarithm,
    min_p_threshold,
    philox,
    saturated_pow2,
    scaled_pow2,
)
from .combine import max_and_min, nan_max, three_sums
from .cut import find_cut
from .draw import draw_from_candidates, draw_from_sums, share
from .rows import BINS, Row, is_aligned, row_start, skipped_of, space_of, tops_of, vectors_of
from .shortlist import shortlist

# Bits of `given`.
INDICES, TEMPERATURE, TOP_K, TOP_P, MIN_P, SEED, STREAM, POSITION = (tl.constexpr(1 << i) for i in range(8))
POINTERS = ["logits", "indices", "stream_rows", "memory", "tokens"]
COLUMNS = ["temperature", "top_k", "top_p", "min_p", "seed", "position"]
STATS = ["logprob", "raw_logprob", "entropy", "self_certainty", "kept", "status"]
UNSPECIALISED = dict(
    do_not_specialize=["stride", "count", "vocab", "given", "words", *COLUMNS],
    do_not_specialize_on_alignment=[*POINTERS, *(f"{name}_rows" for name in COLUMNS), *STATS],
)


@triton.jit
def parameter(value, rows, b, is_given):
    """A parameter of row b: its own where there is a value a row, else the one for all."""
    return tl.load(rows + b, mask=is_given, other=value)


@triton.jit
def store_statistics(
    x, i, j, vocab, chunks, c, space, IS_WHOLE: tl.constexpr, WITH_SUMS: tl.constexpr, WITH_STATS: tl.constexpr
):  # fmt: skip
    """Maximum, sum of weights and moments of chunks j [N]: their logits x and tokens i are [PIECES, N, LANES].

    A chunk lies in pieces, a few threads to each, so that most of a reduction stays within a thread. IS_WHOLE: every
    token is in the vocabulary, and the temperature is low enough for `saturated_pow2`.
    """
    top = tl.reduce(tl.reduce(x, 0, nan_max), 1, nan_max)
    tl.store(space.tops + j, top, mask=j < chunks)
    if WITH_SUMS or WITH_STATS:
        d = x - tl.where(top > float("-inf"), top, 0.0)[None, :, None]  # -inf - -inf would be a NaN
    if WITH_STATS:  # here, not below: the order of the parts decides how many registers they take
        down = d if IS_WHOLE else tl.where(i < vocab, d, 0.0)
        tl.store(space.moments + 2 * chunks + j, tl.sum(tl.sum(down, 0), 1), mask=j < chunks)
    if WITH_SUMS:
        if IS_WHOLE:
            w, _ = saturated_pow2(d, c * (-1 / 32), 32.0, 12582942.0)  # 1.5 * 2^23 + 30, as in `weight`
        else:
            w = scaled_pow2(tl.maximum(d * c, -32.0), 12582942.0)
        # Two weights fit in 32 unsigned bits: half as many 64-bit additions.
        pairs = tl.reshape(w.to(tl.int32).to(tl.uint32), [2, x.shape[0] // 2, x.shape[1], x.shape[2]])
        tl.store(space.sums + j, tl.sum(tl.sum(tl.sum(pairs, 0).to(tl.int64), 0), 1), mask=j < chunks)
    if WITH_STATS:
        near = tl.maximum(d, -69.0)  # 1e-30 of a maximum adds nothing, and -inf would add a NaN
        e = tl.exp2(near * LOG2E)
        tl.store(space.moments + j, tl.sum(tl.sum(e, 0), 1), mask=j < chunks)
        tl.store(space.moments + chunks + j, tl.sum(tl.sum(e * near, 0), 1), mask=j < chunks)


@triton.jit
def places(N: tl.constexpr, LANES: tl.constexpr):
    """[CHUNK / LANES, N, LANES] int32: the tokens of N chunks."""
    piece = tl.arange(0, CHUNK // LANES)[:, None, None] * LANES
    i = tl.arange(0, N)[None, :, None] * CHUNK + piece + tl.arange(0, LANES)[None, None, :]
    return tl.max_contiguous(i, [1, 2, LANES])  # see `rows.WARPS`


@triton.jit
def read_parted(
    start, skipped, columns, chunks, c, space, N: tl.constexpr, VECTOR: tl.constexpr, WITH_SUMS: tl.constexpr
):
    """The whole chunks of a row that starts between two vectors of 16 bytes. Integer sums do not mind their order: of a
    chunk all vectors but one are read as such, and its first and last tokens make up the other one."""
    PARTED: tl.constexpr = CHUNK - VECTOR  # from this one on
    part = columns % CHUNK - PARTED
    for j0 in range(tl.program_id(1) * N, chunks, tl.num_programs(1) * N):
        j = j0 + tl.arange(0, N)
        is_one = (j < chunks)[None, :, None]
        first = start + j0 * CHUNK
        x = tl.load(tl.multiple_of(first + skipped, 16) + columns, mask=is_one & (part < 0), other=float("-inf"))
        x = tl.load(first + columns - PARTED, mask=is_one & (part >= 0) & (part < skipped), other=x)
        x = tl.load(first + columns, mask=is_one & (part >= skipped), other=x).to(tl.float32)
        store_statistics(x, None, j, None, chunks, c, space, False, WITH_SUMS, False)


@triton.jit
def read_row(
    start, vocab, readable, vectors, skipped, chunks, c, space, THREADS: tl.constexpr, SHARE: tl.constexpr,
    WITH_SUMS: tl.constexpr, WITH_STATS: tl.constexpr,
):  # fmt: skip
    """A program reads every `num_programs(1)`-th tile of a row. `vectors`: tokens of whole tiles that may be read 16
    bytes at a time, without a mask. `skipped`: tokens before the first vector of 16 bytes of a row that starts between
    two; 0 where float sums want the order of the row."""
    VECTOR: tl.constexpr = 128 // start.dtype.element_ty.primitive_bitwidth
    TILE: tl.constexpr = THREADS // SHARE
    whole = vectors // (TILE * CHUNK)
    columns = places(TILE, SHARE * VECTOR)
    for tile in range(tl.program_id(1), whole, tl.num_programs(1)):
        x = tl.load(tl.multiple_of(start + tile * (TILE * CHUNK), 16) + columns).to(tl.float32)
        j = tile * TILE + tl.arange(0, TILE)
        store_statistics(x, None, j, vocab, chunks, c, space, True, WITH_SUMS, WITH_STATS)
    # The rest, in small tiles for the sake of registers, goes to the programs that had a tile less.
    SMALL: tl.constexpr = THREADS // 16
    columns = places(SMALL, 16 * VECTOR)
    done = whole * TILE
    if skipped > 0:
        done = readable // CHUNK
        read_parted(start, skipped, columns, done, c, space, SMALL, VECTOR, WITH_SUMS)
    turn = (tl.program_id(1) + tl.num_programs(1) - whole % tl.num_programs(1)) % tl.num_programs(1)
    for j0 in range(done + turn * SMALL, chunks, tl.num_programs(1) * SMALL):
        i = j0 * CHUNK + columns
        x = tl.load(start + i, mask=i < readable, other=float("-inf")).to(tl.float32)
        j = j0 + tl.arange(0, SMALL)
        store_statistics(x, i, j, vocab, chunks, c, space, False, WITH_SUMS, WITH_STATS)


@triton.jit(**UNSPECIALISED)
def chunk_statistics(
    logits, stride: tl.int64, count: tl.int32, vocab: tl.int32, given: tl.int32, indices,
    temperature: tl.float32, temperature_rows, top_k: tl.int32, top_k_rows, top_p: tl.float32, top_p_rows,
    min_p: tl.float32, min_p_rows, seed: tl.int64, seed_rows, stream_rows, position: tl.int64,
    position_rows, memory, words: tl.int32,
    WITH_STATS: tl.constexpr, CAPACITY: tl.constexpr,
    THREADS: tl.constexpr,  # of a program
    SHARE: tl.constexpr,  # threads that read a chunk together, 16 bytes at a time
):  # fmt: skip
    """The chunks' maxima; their sums of weights too where the mass of the whole row is asked for: the second kernel
    finds every other mass by reading again."""
    b = tl.program_id(0)
    chunks = (vocab + CHUNK - 1) // CHUNK
    space = space_of(memory, b, words, chunks, CAPACITY)
    start, is_row = row_start(logits, stride, count, indices, b, (given & INDICES) > 0)
    t = parameter(temperature, temperature_rows, b, (given & TEMPERATURE) > 0)
    k = parameter(top_k, top_k_rows, b, (given & TOP_K) > 0)
    p = parameter(top_p, top_p_rows, b, (given & TOP_P) > 0)
    m = parameter(min_p, min_p_rows, b, (given & MIN_P) > 0)
    c = inverse_temperature(t)
    if tl.program_id(1) == 0:
        tl.store(space.bins + tl.arange(0, BINS), tl.zeros([BINS], tl.int64))
    readable = tl.where(is_row, vocab, 0)
    skipped = 0 if WITH_STATS else tl.where(is_row, skipped_of(start), 0)
    if (t > 0) & ((k <= 0) | (k >= vocab)) & ((p < 1) | (m <= 0)):
        vectors = tl.where(is_aligned(start) & (c >= 2.0**-121), readable, 0)
        read_row(start, vocab, readable, vectors, skipped, chunks, c, space, THREADS, SHARE, True, WITH_STATS)
    else:
        vectors = tl.where(is_aligned(start), readable, 0)
        read_row(start, vocab, readable, vectors, skipped, chunks, c, space, THREADS, SHARE, False, WITH_STATS)


@triton.jit
def raw_statistics(row, space, j):
    """log of the sum of e^(x - top), entropy and self-certainty of the untouched row at temperature 1."""
    is_one = j * CHUNK < row.vocab
    chunk_top = tops_of(row, space, j)
    e = tl.load(space.moments + j, mask=is_one, other=0.0).to(tl.float64)
    ed = tl.load(space.moments + row.chunks + j, mask=is_one, other=0.0).to(tl.float64)
    down = tl.load(space.moments + 2 * row.chunks + j, mask=is_one, other=0.0).to(tl.float64)
    d = (chunk_top - row.top).to(tl.float64)
    z = (chunk_top - row.top) * LOG2E
    to_row = tl.where(z > -100.0, scaled_pow2(tl.maximum(z, -100.0), 12582912.0), 0.0).to(tl.float64)
    size = tl.minimum(row.vocab - j * CHUNK, CHUNK).to(tl.float64)
    # A chunk with no finite logit has measured its distances from 0: they are -inf already.
    e, ed, down = tl.reduce(
        (
            e * to_row,
            tl.where(to_row > 0, to_row * (ed + d * e), 0.0),
            tl.where(is_one, down + d * size, 0.0),
        ),
        0,
        three_sums,
    )
    log_sum = logarithm(e)
    v = row.vocab.to(tl.float64)
    return log_sum, log_sum - ed / e, log_sum - down / v - logarithm(v)


@triton.jit(**UNSPECIALISED)
def finish_rows(
    logits, stride: tl.int64, count: tl.int32, vocab: tl.int32, given: tl.int32, indices,
    temperature: tl.float32, temperature_rows, top_k: tl.int32, top_k_rows, top_p: tl.float32, top_p_rows,
    min_p: tl.float32, min_p_rows, seed: tl.int64, seed_rows, stream_rows, position: tl.int64,
    position_rows, memory, words: tl.int32,
    tokens, logprob, raw_logprob, entropy, self_certainty, kept, status,
    WITH_STATS: tl.constexpr, CAPACITY: tl.constexpr,
    BLOCK: tl.constexpr,  # power of 2 >= chunks
    SHIFT: tl.constexpr,  # bits of a float32 that no logit of this type uses
):  # fmt: skip
    """One program turns what is known of one row's chunks into its token: filters, exact cut, draw, statistics."""
    b = tl.program_id(0)
    chunks = (vocab + CHUNK - 1) // CHUNK
    space = space_of(memory, b, words, chunks, CAPACITY)
    start, _is_row = row_start(logits, stride, count, indices, b, (given & INDICES) > 0)
    j = tl.arange(0, BLOCK)
    chunk_top = tl.load(space.tops + j, mask=j < chunks, other=float("-inf"))
    finite = tl.where(chunk_top > float("-inf"), chunk_top, float("inf"))
    top, lowest_top = tl.reduce((chunk_top, finite), 0, max_and_min)
    t = parameter(temperature, temperature_rows, b, (given & TEMPERATURE) > 0)
    k = parameter(top_k, top_k_rows, b, (given & TOP_K) > 0)
    p = parameter(top_p, top_p_rows, b, (given & TOP_P) > 0)
    m = parameter(min_p, min_p_rows, b, (given & MIN_P) > 0)
    is_in_range = (t >= 0) & (k >= 0) & (p > 0) & (p <= 1) & (m >= 0) & (m <= 1)  # a NaN is in none
    code = tl.where(top == float("-inf"), 3, tl.where(is_in_range, 0, 4))
    code = tl.where(top != top, 1, tl.where(top == float("inf"), 2, code))
    if code != 0:
        tl.store(tokens + b, tl.full((), -1, tl.int64))
        if WITH_STATS:
            tl.store(logprob + b, float("nan"))
            tl.store(raw_logprob + b, float("nan"))
            tl.store(entropy + b, float("nan"))
            tl.store(self_certainty + b, float("nan"))
            tl.store(kept + b, tl.full((), 0, tl.int64))
            tl.store(status + b, code)
    else:
        c = inverse_temperature(t)
        row = Row(x=start, vocab=vocab, vectors=vectors_of(start, vocab), chunks=chunks, c=c, top=top)
        is_greedy = t == 0
        is_counted = (k > 0) & (k < vocab)
        n, near = tl.full((), 0, tl.int32), tl.full((), float("-inf"), tl.float32)
        cut_x, cut_i = tl.full((), float("-inf"), tl.float32), tl.full((), LAST, tl.int32)
        n_kept = tl.where(is_greedy, 1, vocab)
        if (is_counted | (p < 1) | (m > 0)) & (is_greedy == 0):
            if m > 0:
                near = min_p_threshold(m)
            n = shortlist(row, space, j, lowest_top, is_counted, k, p, near, BLOCK, CAPACITY)
            if n == 0:
                cut_x, cut_i, n_kept = find_cut(row, space, j, lowest_top, k, p, near, BLOCK, CAPACITY, SHIFT)
        # Here, not above: what waits through the search for the cut would be spilled.
        u1, u2 = philox(
            parameter(seed, seed_rows, b, (given & SEED) > 0).to(tl.uint64),
            parameter(b.to(tl.int64), stream_rows, b, (given & STREAM) > 0).to(tl.uint64),
            parameter(position, position_rows, b, (given & POSITION) > 0).to(tl.uint64),
        )
        if n > 0:
            chunk, of_chunk, total, is_kept = draw_from_candidates(
                row, space, tokens + b, n, is_counted, p < 1, near, u1, u2, CAPACITY
            )
            if WITH_STATS:
                n_kept = tl.sum(is_kept.to(tl.int32))
        else:
            chunk, of_chunk, total = draw_from_sums(row, space, tokens + b, j, is_greedy, cut_x, cut_i, u1, u2, BLOCK)
        if WITH_STATS:
            tl.debug_barrier()
            token = tl.load(tokens + b)
            part = share(row, space, token, chunk, of_chunk, total)
            log_sum, row_entropy, certainty = raw_statistics(row, space, j)
            x_token = tl.load(row.x + token).to(tl.float64)
            tl.store(logprob + b, tl.where(is_greedy, 0.0, logarithm(part)).to(tl.float32))
            tl.store(raw_logprob + b, (x_token - top.to(tl.float64) - log_sum).to(tl.float32))
            tl.store(entropy + b, row_entropy.to(tl.float32))
            tl.store(self_certainty + b, certainty.to(tl.float32))
            tl.store(kept + b, n_kept.to(tl.int64))
            tl.store(status + b, code)
