"""The two Triton kernels: `chunk_statistics` reads each row once, `finish_rows` turns the statistics into tokens.

Bytes of global memory per row of V tokens: the first kernel reads V * element size and writes 12 bytes per 256 tokens
(24 with statistics). The second reads those, and where a filter is on the chunks that can hold the cut once or twice.
"""

# mypy: ignore-errors
# (the arguments of Triton's functions get their types from Triton)

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import (
    CHUNK,
    INDEX_BITS,
    LOG2E,
    LOWEST_RANK,
    at_or_before,
    chunk_scale,
    high_product,
    inverse_temperature,
    logarithm,
    mass,
    philox,
    saturated_pow2,
    scaled_pow2,
    weight,
)
from .cut import find_cut

# Arguments whose values must not make a new kernel.
SCALARS = ["count", "vocab", "chunks", "scratch_stride", "temperature", "top_k", "top_p", "min_p", "seed", "position"]


@triton.jit
def nan_max(a, b):
    """The larger of two; a NaN wins."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def parameter(value, rows, b, TYPE: tl.constexpr):
    """A parameter of row b: its own where there is a value a row, else the one for all."""
    if rows is None:
        return tl.full((), value, TYPE)
    else:  # noqa: RET505 (Triton compiles one branch or the other)
        return tl.load(rows + b)


@triton.jit
def row_start(logits, stride, count, indices, b):
    """Where output b's row starts, and whether there is such a row. Offsets are 64 bits wide."""
    if indices is None:
        row = b.to(tl.int64)
    else:
        row = tl.load(indices + b)
    is_row = (row >= 0) & (row < count)
    return logits + tl.where(is_row, row, 0) * stride, is_row


@triton.jit
def store_statistics(x, i, j, vocab, chunks, c, tops, sums, moments, IS_WHOLE: tl.constexpr, WITH_STATS: tl.constexpr):
    """Maximum, sum of weights and moments of chunks j [N]: their logits x and tokens i are [PIECES, N, LANES].

    A chunk lies in pieces, a few threads to each, so that most of a reduction stays within a thread. IS_WHOLE: every
    token is in the vocabulary, and the temperature is low enough for `saturated_pow2`.
    """
    top = tl.reduce(tl.reduce(x, 0, nan_max), 1, nan_max)
    d = x - tl.where(top > float("-inf"), top, 0.0)[None, :, None]  # -inf - -inf would be a NaN
    if WITH_STATS:  # here, not below: the order of the parts decides how many registers they take
        down = d if IS_WHOLE else tl.where(i < vocab, d, 0.0)
        tl.store(moments + 2 * chunks + j, tl.sum(tl.sum(down, 0), 1), mask=j < chunks)
    if IS_WHOLE:
        w, _ = saturated_pow2(d, c * (-1 / 32), 32.0, 12582942.0)  # 1.5 * 2^23 + 30, as in `weight`
    else:
        w = scaled_pow2(tl.maximum(d * c, -32.0), 12582942.0)
    # Two weights fit in 32 unsigned bits: half as many 64-bit additions.
    pairs = tl.reshape(w.to(tl.int32).to(tl.uint32), [2, x.shape[0] // 2, x.shape[1], x.shape[2]])
    total = tl.sum(tl.sum(tl.sum(pairs, 0).to(tl.int64), 0), 1)
    tl.store(tops + j, top, mask=j < chunks)
    tl.store(sums + j, total, mask=j < chunks)
    if WITH_STATS:
        # A token 64 powers of two below its chunk's maximum counts as if it were there: 5e-20.
        e, y = saturated_pow2(d, LOG2E / -64, 64.0, 12582912.0)
        tl.store(moments + j, tl.sum(tl.sum(e, 0), 1), mask=j < chunks)
        tl.store(moments + chunks + j, tl.sum(tl.sum(e * y, 0), 1) * (-64 / LOG2E), mask=j < chunks)


@triton.jit
def places(N: tl.constexpr, LANES: tl.constexpr):
    """[CHUNK / LANES, N, LANES] int32: the tokens of N chunks."""
    piece = tl.arange(0, CHUNK // LANES)[:, None, None] * LANES
    return tl.arange(0, N)[None, :, None] * CHUNK + piece + tl.arange(0, LANES)[None, None, :]


@triton.jit(do_not_specialize=["count", "vocab", "chunks", "temperature", "scratch_stride"])
def chunk_statistics(
    logits,
    stride,
    count,
    vocab,
    chunks,
    indices,
    temperature,
    temperature_rows,
    tops,  # [B, chunks] float32: the chunk's maximum, NaN where it holds one
    sums,  # [B, chunks] int64: the sum of its weights
    moments,  # [B, 3, chunks] float32 in rows of `scratch_stride`: of e^(x - top), (x - top) e^(x - top) and x - top
    scratch_stride,
    WITH_STATS: tl.constexpr,
    THREADS: tl.constexpr,  # of a program
    SHARE: tl.constexpr,  # threads that read a chunk together, 16 bytes at a time
):
    """A program reads every `num_programs(1)`-th tile of a row; what is the same for the whole row it computes once."""
    b = tl.program_id(0)
    start, is_row = row_start(logits, stride, count, indices, b)
    tops += b.to(tl.int64) * chunks
    sums += b.to(tl.int64) * chunks
    moments += b.to(tl.int64) * scratch_stride
    c = inverse_temperature(parameter(temperature, temperature_rows, b, tl.float32))
    readable = tl.where(is_row, vocab, 0)
    VECTOR: tl.constexpr = 128 // logits.dtype.element_ty.primitive_bitwidth
    TILE: tl.constexpr = THREADS // SHARE
    # Whole tiles need no mask, which makes their loads 16 bytes wide whatever the vocabulary.
    whole = tl.where(c >= 2.0**-121, readable // (TILE * CHUNK), 0)
    columns = places(TILE, SHARE * VECTOR)
    for tile in range(tl.program_id(1), whole, tl.num_programs(1)):
        x = tl.load(start + tile * (TILE * CHUNK) + columns).to(tl.float32)
        j = tile * TILE + tl.arange(0, TILE)
        store_statistics(x, None, j, vocab, chunks, c, tops, sums, moments, True, WITH_STATS)
    # The rest, in small tiles for the sake of registers, goes to the programs that had a tile less.
    SMALL: tl.constexpr = THREADS // 16
    columns = places(SMALL, 16 * VECTOR)
    turn = (tl.program_id(1) + tl.num_programs(1) - whole % tl.num_programs(1)) % tl.num_programs(1)
    for j0 in range(whole * TILE + turn * SMALL, chunks, tl.num_programs(1) * SMALL):
        i = j0 * CHUNK + columns
        x = tl.load(start + i, mask=i < readable, other=float("-inf")).to(tl.float32)
        j = j0 + tl.arange(0, SMALL)
        store_statistics(x, i, j, vocab, chunks, c, tops, sums, moments, False, WITH_STATS)


@triton.jit
def raw_statistics(moments, tops, top, chunks, vocab, BLOCK: tl.constexpr):
    """log of the sum of e^(x - top), entropy and self-certainty of the untouched row at temperature 1."""
    j = tl.arange(0, BLOCK)
    e = tl.load(moments + j, mask=j < chunks, other=0.0).to(tl.float64)
    ed = tl.load(moments + chunks + j, mask=j < chunks, other=0.0).to(tl.float64)
    down = tl.load(moments + 2 * chunks + j, mask=j < chunks, other=0.0).to(tl.float64)
    chunk_top = tl.load(tops + j, mask=j < chunks, other=float("-inf"))
    d = (chunk_top - top).to(tl.float64)
    z = (chunk_top - top) * LOG2E
    to_row = tl.where(z > -100.0, scaled_pow2(tl.maximum(z, -100.0), 12582912.0), 0.0).to(tl.float64)
    e_row = tl.sum(e * to_row)
    ed_row = tl.sum(tl.where(to_row > 0, to_row * (ed + d * e), 0.0))
    size = tl.where(j < chunks, tl.minimum(vocab - j * CHUNK, CHUNK), 0).to(tl.float64)
    # A chunk with no finite logit has measured its distances from 0: they are -inf already.
    down_row = tl.sum(tl.where(j < chunks, down + d * size, 0.0))
    log_sum = logarithm(e_row)
    v = vocab.to(tl.float64)
    return log_sum, log_sum - ed_row / e_row, log_sum - down_row / v - logarithm(v)


@triton.jit(do_not_specialize=SCALARS)
def finish_rows(
    logits,
    stride,
    count,
    vocab,
    chunks,
    indices,
    temperature,
    temperature_rows,
    top_k,
    top_k_rows,
    top_p,
    top_p_rows,
    min_p,
    min_p_rows,
    seed,
    seed_rows,
    stream_rows,
    position,
    position_rows,
    tops,
    sums,
    listing,  # [B, chunks] int32
    scratch,  # rows of scratch_stride * 4 bytes: the moments, then CAPACITY candidate keys
    scratch_stride,
    tokens,
    logprob,
    raw_logprob,
    entropy,
    self_certainty,
    kept,
    status,
    WITH_STATS: tl.constexpr,
    BLOCK: tl.constexpr,  # power of 2 >= chunks
    CAPACITY: tl.constexpr,
    SHIFT: tl.constexpr,  # bits of a float32 that no logit of this type uses
):
    """One program turns one row's statistics into its token: filters, exact cut, draw, statistics."""
    b = tl.program_id(0)
    wide = b.to(tl.int64)
    start, _ = row_start(logits, stride, count, indices, b)
    tops += wide * chunks
    sums += wide * chunks
    listing += wide * chunks
    moments = scratch + wide * scratch_stride
    candidates = moments.to(tl.pointer_type(tl.int64), bitcast=True)
    j = tl.arange(0, BLOCK)
    chunk_top = tl.load(tops + j, mask=j < chunks, other=float("-inf"))
    top = tl.max(chunk_top)
    has_nan = tl.max((chunk_top != chunk_top).to(tl.int32))
    t = parameter(temperature, temperature_rows, b, tl.float32)
    k = parameter(top_k, top_k_rows, b, tl.int32)
    p = parameter(top_p, top_p_rows, b, tl.float32)
    m = parameter(min_p, min_p_rows, b, tl.float32)
    is_in_range = (t >= 0) & (k >= 0) & (p > 0) & (p <= 1) & (m >= 0) & (m <= 1)  # a NaN is in none
    code = tl.where(top == float("-inf"), 3, tl.where(is_in_range, 0, 4))
    code = tl.where(has_nan > 0, 1, tl.where(top == float("inf"), 2, code))
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
        cut = tl.full((), LOWEST_RANK >> SHIFT, tl.int64) << INDEX_BITS
        n_kept = vocab.to(tl.int64)
        if WITH_STATS:
            log_sum, row_entropy, certainty = raw_statistics(moments, tops, top, chunks, vocab, BLOCK)
            tl.debug_barrier()  # the candidates take the place of the moments
        if t > 0:
            cut, n_kept = find_cut(
                start, vocab, chunks, tops, sums, listing, candidates, top, c, k, p, m, BLOCK, CAPACITY, SHIFT
            )
            K = tl.load(sums + j, mask=j < chunks, other=0)
            G = mass(K, chunk_scale(chunk_top, top, c))
        else:  # greedy: the first chunk that holds the maximum
            G = (chunk_top == top).to(tl.int64)
            n_kept = tl.full((), 1, tl.int64)
        if stream_rows is None:
            stream = wide
        else:
            stream = tl.load(stream_rows + b)
        u1, u2 = philox(
            parameter(seed, seed_rows, b, tl.int64).to(tl.uint64),
            stream.to(tl.uint64),
            parameter(position, position_rows, b, tl.int64).to(tl.uint64),
        )
        in_row = tl.where(t > 0, high_product(u1, tl.sum(G).to(tl.uint64)).to(tl.int64), 0)
        chunk = tl.sum((tl.cumsum(G, 0) <= in_row).to(tl.int32))
        i = chunk * CHUNK + tl.arange(0, CHUNK)
        x = tl.load(start + i, mask=i < vocab, other=float("-inf")).to(tl.float32)
        x_top = tl.max(x)
        w = tl.where(t > 0, tl.where(at_or_before(x, i, cut, SHIFT), weight(x, x_top, c), 0), (x == x_top).to(tl.int32))
        w = w.to(tl.int64)
        in_chunk = tl.where(t > 0, high_product(u2, tl.sum(w).to(tl.uint64)).to(tl.int64), 0)
        token = chunk * CHUNK + tl.sum((tl.cumsum(w, 0) <= in_chunk).to(tl.int32))
        tl.store(tokens + b, token.to(tl.int64))
        if WITH_STATS:
            x_token = tl.max(tl.where(i == token, x, float("-inf")))
            w_token = tl.sum(tl.where(i == token, w, 0)).to(tl.float64)
            share = (w_token / tl.sum(w).to(tl.float64)) * (
                tl.sum(tl.where(j == chunk, G, 0)).to(tl.float64) / tl.sum(G).to(tl.float64)
            )
            tl.store(logprob + b, tl.where(t > 0, logarithm(share), 0.0).to(tl.float32))
            tl.store(raw_logprob + b, (x_token.to(tl.float64) - top.to(tl.float64) - log_sum).to(tl.float32))
            tl.store(entropy + b, row_entropy.to(tl.float32))
            tl.store(self_certainty + b, certainty.to(tl.float32))
            tl.store(kept + b, n_kept)
            tl.store(status + b, code)
