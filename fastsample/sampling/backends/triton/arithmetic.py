"""The arithmetic of the contract in Triton. Each fused multiply-add is a `tl.fma`; nothing else may be fused.

Nothing here calls a vendor's device library or inline assembly, so the same source runs on NVIDIA and AMD.
"""

# mypy: ignore-errors
# (the arguments of Triton's functions get their types from Triton)

from __future__ import annotations

import triton
import triton.language as tl

from ...contract import POW2_COEFFICIENTS

CHUNK = tl.constexpr(256)
LOWEST = tl.constexpr(-3.4028234663852886e38)
LAST = tl.constexpr(2**30)  # behind every token
LOG2E = tl.constexpr(1.4426950408889634)
A5, A4, A3, A2, A1 = (tl.constexpr(a) for a in POW2_COEFFICIENTS[:5])


@triton.jit
def pow2_polynomial(f):
    """2^f for float32 f in [-1/2, 1/2]: five fma, relative error 1.1e-7."""
    p = tl.fma(tl.full(f.shape, A5, tl.float32), f, A4)
    p = tl.fma(p, f, A3)
    p = tl.fma(p, f, A2)
    p = tl.fma(p, f, A1)
    return tl.fma(p, f, 1.0)


@triton.jit
def scaled_pow2(z, MAGIC: tl.constexpr):
    """2^z * 2^(MAGIC - 1.5 * 2^23) as float32. Adding the magic number rounds z to the nearest integer, ties to even,
    and leaves that integer in the low bits, from where it goes into the exponent."""
    t = z + MAGIC
    return _with_exponent(pow2_polynomial(z - (t - MAGIC)), t)


@triton.jit
def _with_exponent(p, t):
    return (p.to(tl.int32, bitcast=True) + (t.to(tl.int32, bitcast=True) << 23)).to(tl.float32, bitcast=True)


@triton.jit
def weight(x, chunk_top, c):
    """A token's int32 weight in [0, 2^30] relative to its chunk's maximum; 0 where x is -inf."""
    z = tl.maximum((x - chunk_top) * c, -32.0)
    return scaled_pow2(z, 12582942.0).to(tl.int32)  # 1.5 * 2^23 + 30


@triton.jit
def saturated_pow2(d, scale, SPAN: tl.constexpr, MAGIC: tl.constexpr):
    """(2^z * 2^(MAGIC - 1.5 * 2^23), z / -SPAN) for z = max(d * c, -SPAN), SPAN a power of 2 and scale = -c / SPAN.

    The bits of `scaled_pow2` for fewer instructions: a clamp to [0, 1] is a modifier of the product on NVIDIA, and the
    factor SPAN goes into additions that become fused ones. Exact as long as `scale` is normal.
    """
    y = tl.minimum(tl.maximum(d * scale, 0.0), 1.0)
    span = tl.full(y.shape, -SPAN, tl.float32)
    t = tl.fma(y, span, MAGIC)
    return _with_exponent(pow2_polynomial(tl.fma(y, span, MAGIC - t)), t), y


@triton.jit
def chunk_scale(chunk_top, row_top, c):
    """float64 scale of a chunk relative to the row's maximum; 0 where the chunk has no finite logit."""
    z = tl.maximum((chunk_top - row_top) * c, -64.0)
    s = scaled_pow2(z, 12582912.0).to(tl.float64)  # 1.5 * 2^23
    return tl.where(chunk_top > float("-inf"), s, 0.0)


@triton.jit
def mass(weights, scale):
    """int64 mass of kept weights that sum to `weights` (int64, < 2^53)."""
    return (weights.to(tl.float64) * scale).to(tl.int64)


@triton.jit
def inverse_temperature(temperature):
    """log2(e) / T in float64, rounded once to float32 and clamped to the normal range."""
    c = tl.full((), LOG2E, tl.float64) / temperature.to(tl.float64)
    c = tl.minimum(tl.maximum(c, 1.1754943508222875e-38), 3.4028234663852886e38)
    return c.to(tl.float32)


@triton.jit
def logarithm(x):
    """Natural logarithm of a positive normal float64 to about 1e-15, without a device library."""
    bits = x.to(tl.int64, bitcast=True)
    exponent = (bits >> 52) - 1023
    fraction = ((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).to(tl.float64, bitcast=True)
    is_upper = fraction > 1.4142135623730951
    fraction = tl.where(is_upper, fraction * 0.5, fraction)
    exponent = tl.where(is_upper, exponent + 1, exponent).to(tl.float64)
    t = (fraction - 1.0) / (fraction + 1.0)  # ln = 2 atanh(t), |t| < 0.172
    t2 = t * t
    s = t2 * 0.0 + 1.0 / 23.0
    for i in tl.static_range(11):
        s = s * t2 + 1.0 / (21 - 2 * i)
    return exponent * 0.6931471805599453 + 2.0 * t * s


@triton.jit
def high_product(a, b):
    """(a * b) >> 64 of uint64."""
    a0, a1 = a & 0xFFFFFFFF, a >> 32
    b0, b1 = b & 0xFFFFFFFF, b >> 32
    low = a0 * b0
    mid = a1 * b0 + (low >> 32)
    mid2 = a0 * b1 + (mid & 0xFFFFFFFF)
    return a1 * b1 + (mid >> 32) + (mid2 >> 32)


@triton.jit
def philox(seed, stream, position):
    """Philox4x32-10 (Salmon et al., SC 2011), key = seed, counter = (position, stream): two uint64."""
    low = tl.full((), 0xFFFFFFFF, tl.uint64)
    a, b = position & low, position >> 32
    c, d = stream & low, stream >> 32
    k0, k1 = seed & low, seed >> 32
    for _ in tl.static_range(10):
        x, y = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (y >> 32) ^ b ^ k0, y & low, (x >> 32) ^ d ^ k1, x & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return a | (b << 32), c | (d << 32)


# A row's order is (logit descending, index ascending). SHIFT: bits that no logit of the row's type uses, so that next
# logits have next ranks (0 for float32).


@triton.jit
def rank(x, SHIFT: tl.constexpr):
    """float32 to int64 of the same order; -0 and +0 are one value."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return (tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits) >> SHIFT).to(tl.int64)


@triton.jit
def at_rank(r, SHIFT: tl.constexpr):
    """The float32 of a rank; no token has rank -1 (-0), which stands for +0."""
    r = tl.where(r == -1, 0, r).to(tl.int32)
    return tl.where(r < 0, (r << SHIFT) ^ (0x80000000 - (1 << SHIFT)), r << SHIFT).to(tl.float32, bitcast=True)


@triton.jit
def at_or_before(x, i, cut_x, cut_i):
    """Whether tokens i with logits x come at or before the cut in the order of the row."""
    return (x > cut_x) | ((x == cut_x) & (i <= cut_i))


@triton.jit
def mass_target(total, top_p):
    """The mass at which top_p closes the kept prefix of this mass."""
    return tl.ceil(total.to(tl.float64) * top_p.to(tl.float64)).to(tl.int64)


@triton.jit
def min_p_threshold(min_p):
    """How many powers of two below the maximum a token may lie; of min_p > 0."""
    return (logarithm(min_p.to(tl.float64)) * 1.4426950408889634).to(tl.float32)
