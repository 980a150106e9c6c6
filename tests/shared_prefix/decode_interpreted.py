"""What `test_decode.py` runs in a process of its own: the decode kernels in Triton's interpreter against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton.language as tl
from decoding import STEPS, Step
from triton.runtime import interpreter

from fastsample.shared_prefix.attention import PrefixPart, TailPart, attend


def _numbers(x):
    """A tile in float32. The interpreter would multiply bfloat16 numbers as if their bits were integers."""
    if x.dtype.scalar == tl.bfloat16:
        return (x.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return x.data.astype(np.float32)


def _dot(self, a, b, d, *precision):
    """Term by term, as a multiplier of tiles does: numpy's order depends on where in a tile a row lies."""
    a, b, total = _numbers(a), _numbers(b), d.data.astype(np.float32)
    for k in range(a.shape[-1]):
        total = total + a[..., k, None] * b[..., k, None, :]
    return interpreter.TensorHandle(total, d.dtype.scalar)


interpreter.InterpreterBuilder.create_dot = _dot


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", STEPS)
def test_within_twice_the_naive_error(name, dtype):
    """Against float64, on the same inputs."""
    errors, naive = zip(*(Step(seed, dtype=dtype, **STEPS[name]).errors() for seed in range(2)))
    assert sum(errors) <= 2 * sum(naive), (errors, naive)
    assert sum(naive) < 0.04


def test_scores_are_not_rounded():
    """Large scores in bfloat16: products rounded before the softmax are off by far more."""
    step = Step(7, dtype=torch.bfloat16, groups=1)
    step.query *= 12
    error, naive = step.errors()
    assert error < naive / 2, (error, naive)


def test_a_row_is_the_same_in_any_batch():
    """To the bit: alone, and among others of the same and of another prefix."""
    step = Step(3, rows=9, groups=2)
    together = step.by_kernels()
    for b in (0, 4, 7):
        alone = Step(3, rows=9, groups=2)
        alone.query, alone.keys, alone.values = step.query[b : b + 1], step.keys[b : b + 1], step.values[b : b + 1]
        alone.lengths, alone.group = step.lengths[b : b + 1], step.group[b : b + 1]
        assert torch.equal(alone.by_kernels()[0], together[b])


def test_views_are_read_where_they_lie():
    """Tails with room for more rows and columns, and a query that is not contiguous."""
    step = Step(5)
    expected = step.by_kernels()
    room = [torch.full((9, 2, 32, 64), torch.nan) for _ in range(2)]
    for larger, tails in zip(room, (step.keys, step.values)):
        larger[:6] = tails
    step.keys, step.values = room[0][:6], room[1][:6]
    step.query = step.query.transpose(1, 3).contiguous().transpose(1, 3)
    assert torch.equal(step.by_kernels(), expected)


def test_what_lies_behind_a_tail_is_not_read():
    """NaN in columns that no token has been written to."""
    step = Step(6)
    expected = step.by_kernels()
    for b, length in enumerate(step.lengths.tolist()):
        step.keys[b, :, length + 1 :] = torch.nan
        step.values[b, :, length + 1 :] = torch.nan
    assert torch.equal(step.by_kernels(), expected)


def test_the_part_is_the_operator():
    """`attend` under the name that the kernels stand in for: one query a row, masks made by hand."""
    step = Step(8, prefixes=(40,), rows=3)
    step.group = [0, 0, 0]
    mask = torch.zeros(3, 1, 32).masked_fill(torch.arange(32) > step.lengths[:, None, None], -torch.inf)
    p = step.stored[0]
    part = TailPart(step.keys, step.values, mask, None, [PrefixPart(p.keys, p.values, None, None)])
    expected = attend(step.query, part, 0.2, None, None)[:, 0]
    assert float((step.by_kernels() - expected).abs().max()) < 1e-5
