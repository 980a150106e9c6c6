"""What reductions and prefix sums combine. Several values go together: a reduction of a block takes two barriers,
however many they are.
"""

# mypy: ignore-errors
# (the arguments of Triton's functions get their types from Triton)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def nan_max(a, b):
    """The larger of two; a NaN wins."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def max_and_min(a, b, c, d):
    """The larger and the smaller; a NaN is larger than all."""
    return nan_max(a, c), tl.minimum(b, d)


@triton.jit
def sum_and_max(a, b, c, d):
    """A sum and a maximum."""
    return a + c, tl.maximum(b, d)


@triton.jit
def sum_and_two_maxima(a, b, c, d, e, f):
    """A sum and two maxima."""
    return a + d, tl.maximum(b, e), tl.maximum(c, f)


@triton.jit
def two_sums(a, b, c, d):
    """Two sums."""
    return a + c, b + d


@triton.jit
def three_sums(a, b, c, d, e, f):
    """Three sums."""
    return a + d, b + e, c + f


@triton.jit
def eight_sums(a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7):
    """Eight sums."""
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5, a6 + b6, a7 + b7
