"""The sampling contract as the shortest honest program: the tests' oracle, the bench's baseline, the README's formula.

It sorts every row, so it is slow; a backend of last resort. Randomness comes from (seed, stream, position) alone. Sums
are sums of integers: any order gives the same total, which is why every backend can give the same token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .contract import CHUNK, FLT_MAX, FLT_MIN, LOG2E, POW2_COEFFICIENTS, WEIGHT_BITS, Case, is_in_range, row_status

MASK32, MASK64 = 2**32 - 1, 2**64 - 1


def fma(a: np.ndarray, b: np.ndarray, c: float) -> np.ndarray:
    """a * b + c of float32 values, rounded once to float32 (numpy has no fused multiply-add).

    The product is exact in float64. The sum is rounded to odd there, which makes the second rounding harmless.
    """
    product = a.astype(np.float64) * b.astype(np.float64)
    total = product + c
    part = total - product
    lost = (product - (total - part)) + (c - part)  # what the float64 sum dropped, exactly
    bits = total.view(np.int64)
    is_even = (bits & 1) == 0
    towards = np.where((lost > 0) == (total > 0), 1, -1)
    odd = np.where((lost != 0) & is_even, bits + towards, bits)
    return odd.view(np.float64).astype(np.float32)


def pow2(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """2^z = p * 2^r: float32 p in [0.70, 1.42] and the integer r, for float32 z."""
    r = np.rint(z)
    f = z - r
    p = np.full_like(f, np.float32(POW2_COEFFICIENTS[0]))
    for coefficient in POW2_COEFFICIENTS[1:]:
        p = fma(p, f, coefficient)
    return p, r.astype(np.int64)


def philox(seed: int, stream: int, position: int) -> tuple[int, int]:
    """Philox4x32-10 (Salmon et al., SC 2011): two 64-bit random numbers."""
    a, b = position & MASK32, position >> 32 & MASK32
    c, d = stream & MASK32, stream >> 32 & MASK32
    k0, k1 = seed & MASK32, seed >> 32 & MASK32
    for _ in range(10):
        x, y = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (y >> 32) ^ b ^ k0, y & MASK32, (x >> 32) ^ d ^ k1, x & MASK32
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return a | b << 32, c | d << 32


class Filtered(NamedTuple):
    """A row after the filters: what can be drawn, in integers."""

    weight: np.ndarray  # [chunks, 256] int64: of the kept tokens, relative to the chunk's maximum; 0 elsewhere
    mass: np.ndarray  # [chunks] int64: of the kept tokens of a chunk
    scale: np.ndarray  # [chunks] float64
    kept: int  # how many tokens the filters kept

    def probabilities(self) -> np.ndarray:
        """[chunks * 256] float64: of every token, exactly those of the draw."""
        in_chunk = self.weight.sum(1, keepdims=True)
        of_chunk = self.mass[:, None] / self.mass.sum()
        return (of_chunk * self.weight / np.maximum(in_chunk, 1)).ravel()


def filtered(x: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> Filtered:
    """Apply the filters to one valid row x [V] float32, at a temperature > 0. Parameters are float32 values."""
    vocab = len(x)
    c = np.float32(np.clip(LOG2E / temperature, FLT_MIN, FLT_MAX))
    padded = np.full(-(-vocab // CHUNK) * CHUNK, -np.inf, np.float32)
    padded[:vocab] = x
    chunks = padded.reshape(-1, CHUNK)
    top = chunks.max(1)
    has_any = top > -np.inf
    with np.errstate(invalid="ignore", over="ignore"):
        z = np.where(has_any[:, None], (chunks - top[:, None]) * c, np.float32(-np.inf))
        p, r = pow2(np.maximum(z, np.float32(-32)))
        weight = np.where(z > -np.inf, np.trunc(np.ldexp(p.astype(np.float64), r + WEIGHT_BITS)), 0).astype(np.int64)
        p, r = pow2(np.maximum(np.where(has_any, (top - top.max()) * c, np.float32(-64)), np.float32(-64)))
        scale = np.where(has_any, np.ldexp(p.astype(np.float64), r), 0.0)
        below = (x - top.max()) * c  # min_p looks at the distance from the row's maximum

    def mass(of: np.ndarray) -> np.ndarray:
        return np.trunc(of.sum(-1).astype(np.float64) * scale).astype(np.int64)

    order = np.argsort(-x, kind="stable")  # logit descending, index ascending: every filter keeps a prefix
    kept = vocab if top_k == 0 else min(top_k, vocab)
    if min_p > 0:
        kept_by_min_p = int((below >= np.float32(math.log2(min_p))).sum())
    if top_p < 1:
        target = math.ceil(float(int(mass(_prefix(weight, order[:kept])).sum())) * top_p)
        low, high = 1, kept  # the smallest prefix whose mass reaches the target; the mass grows with the prefix
        while low < high:
            middle = (low + high) // 2
            reaches = int(mass(_prefix(weight, order[:middle])).sum()) >= target
            low, high = (low, middle) if reaches else (middle + 1, high)
        kept = low
    if min_p > 0:
        kept = max(1, min(kept, kept_by_min_p))
    weight = _prefix(weight, order[:kept])
    return Filtered(weight, mass(weight), scale, kept)


def _prefix(weight: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    only = np.zeros_like(weight)
    only.ravel()[tokens] = weight.ravel()[tokens]
    return only


def draw(row: Filtered, seed: int, stream: int, position: int) -> int:
    """A chunk by its mass, then a token by its weight in the chunk: two 64-bit numbers, no division."""
    u1, u2 = philox(seed, stream, position)
    chunk = int(np.searchsorted(row.mass.cumsum(), u1 * int(row.mass.sum()) >> 64, side="right"))
    weight = row.weight[chunk]
    return chunk * CHUNK + int(np.searchsorted(weight.cumsum(), u2 * int(weight.sum()) >> 64, side="right"))


name = "reference"


def why_not(case: Case) -> str | None:
    """None: the reference runs everywhere."""
    return None


def sample(case: Case, tokens: Tensor, stats: tuple[Tensor, ...] | None) -> int:
    """Fill tokens [B] int64 and, where given, the tensors of `Stats`; return the number of invalid rows."""
    invalid = 0
    for b, x, filters, (seed, stream, position) in _rows(case):
        status = row_status(x) or (0 if is_in_range(*filters) else 4)
        invalid += status > 0
        values = x.numpy()
        if status:
            token, kept, logprob = -1, 0, math.nan
        elif filters[0] == 0:
            token, kept, logprob = int(values.argmax()), 1, 0.0
        else:
            row = filtered(values, *filters)
            token, kept = draw(row, seed, stream, position), row.kept
            logprob = math.log(row.probabilities()[token])
        tokens[b] = token
        if stats is not None:
            for column, value in zip(stats, (logprob, *_raw(values, token), kept, status)):
                column[b] = torch.tensor(value, dtype=torch.float64)  # what float32 does not hold becomes infinite
    return invalid


def distribution(case: Case, probabilities: Tensor) -> int:
    """Fill probabilities [B, V] float32 with those of the draw; return the number of invalid rows (left NaN)."""
    invalid = 0
    for b, x, filters, _ in _rows(case):
        probabilities[b] = 0
        if row_status(x) or not is_in_range(*filters):
            invalid += 1
            probabilities[b] = math.nan
        elif filters[0] == 0:
            probabilities[b, int(x.argmax())] = 1
        else:
            p = filtered(x.numpy(), *filters).probabilities()
            probabilities[b] = torch.from_numpy(p[: len(x)])
    return invalid


def _rows(case: Case) -> Iterator[tuple[int, Tensor, list[Any], list[Any]]]:
    """Yield (b, x [V] float32 on the CPU, filter parameters, (seed, stream, position)) for every row."""
    columns = [
        case.column(n).tolist()
        for n in ("indices", "temperature", "top_k", "top_p", "min_p", "seed", "stream", "position")
    ]
    for b, (index, temperature, top_k, top_p, min_p, *randomness) in enumerate(zip(*columns)):
        x = case.row(b, index).detach().float().cpu()
        yield b, x, [temperature, top_k, top_p, min_p], randomness


def _raw(x: np.ndarray, token: int) -> tuple[float, float, float]:
    """raw_logprob, entropy and self-certainty of the untouched row, in float64."""
    if token < 0:
        return math.nan, math.nan, math.nan
    d = x.astype(np.float64) - float(x.max())
    e = np.exp(d)
    log_sum = math.log(e.sum())
    entropy = log_sum - float((e * np.maximum(d, -1e4)).sum() / e.sum())  # 0 * -inf counts as 0
    return float(d[token]) - log_sum, entropy, log_sum - float(d.mean()) - math.log(len(x))
