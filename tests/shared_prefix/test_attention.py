"""The two-part attention against one softmax over all keys, and the kernel's log-sum-exp against its definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsample.shared_prefix import attention
from fastsample.shared_prefix.attention import PrefixPart, TailPart, attend
from fastsample.torch_ops import flash, onednn


def whole(q, k, v, visible, scale, softcap=None, sinks=None):
    """One softmax in float64 over all keys of one row: q [H, n, D], k [H_kv, S, D], visible [n, S]; [n, H, Dv]."""
    groups = q.shape[0] // k.shape[0]
    k, v = k.repeat_interleave(groups, 0).double(), v.repeat_interleave(groups, 0).double()
    scores = q.double() @ k.transpose(1, 2) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~visible, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.double()[:, None, None].expand(-1, q.shape[1], 1)], 2)
    p = scores.softmax(-1)[..., : k.shape[1]]
    return (p @ v).transpose(0, 1)


@pytest.mark.parametrize("long", [1, attention.LONG])
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kv_heads=st.integers(1, 3),
    groups=st.integers(1, 4),
    queries=st.integers(1, 3),
    prefix=st.integers(1, 600),
    tail=st.integers(1, 70),
    rows=st.integers(1, 12),
    width=st.sampled_from([(8, 8), (16, 16), (16, 8), (64, 64)]),
    softcap=st.sampled_from([None, 5.0]),
    has_sinks=st.booleans(),
)
def test_two_parts_equal_one_softmax(
    long, seed, kv_heads, groups, queries, prefix, tail, rows, width, softcap, has_sinks
):
    """Any shape, grouped heads, value width, soft-capping and sinks; some rows look at the prefix and some do not."""
    draw = torch.Generator().manual_seed(seed)
    D, Dv = width
    H = kv_heads * groups
    q = torch.randn(rows, H, queries, D, generator=draw) * 2
    kp, vp = torch.randn(1, kv_heads, prefix, D, generator=draw), torch.randn(1, kv_heads, prefix, Dv, generator=draw)
    kt, vt = torch.randn(rows, kv_heads, tail, D, generator=draw), torch.randn(rows, kv_heads, tail, Dv, generator=draw)
    lengths = torch.randint(0, tail, (rows,), generator=draw)
    visible = torch.arange(tail) <= lengths[:, None, None].expand(rows, queries, 1)
    looking = [b for b in range(rows) if b % 3 != 2]
    mask = torch.zeros(rows, queries, tail).masked_fill(~visible, -torch.inf)
    index = None if len(looking) == rows else torch.tensor(looking)
    part = TailPart(kt, vt, mask, None, [PrefixPart(kp, vp, index, None)])
    sinks = torch.randn(H, generator=draw) if has_sinks else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "LONG", long)  # 1: the products of oneDNN, for any prefix
        got = attend(q, part, D**-0.5, softcap, sinks)
    for b in range(rows):
        here = torch.full((queries, prefix), b in looking)
        want = whole(
            q[b], torch.cat([kp[0], kt[b]], 1), torch.cat([vp[0], vt[b]], 1), torch.cat([here, visible[b]], 1),
            D**-0.5, softcap, sinks,
        )  # fmt: skip
        assert float((got[b] - want).abs().max()) <= 1e-5


def test_a_query_that_sees_nothing_of_the_prefix():
    """A blind query gets its tail alone, although its row's other query sees the prefix."""
    q, k, v = torch.randn(2, 4, 2, 8), torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8)
    kt, vt = torch.randn(2, 2, 3, 8), torch.randn(2, 2, 3, 8)
    blind = torch.tensor([[False, True], [True, True]])
    part = TailPart(kt, vt, None, None, [PrefixPart(k, v, None, None, blind)])
    got = attend(q, part, 0.3, None, None)
    for b in range(2):
        visible = torch.cat([~blind[b][:, None].expand(2, 5), torch.ones(2, 3, dtype=torch.bool)], 1)
        want = whole(q[b], torch.cat([k[0], kt[b]], 1), torch.cat([v[0], vt[b]], 1), visible, 0.3)
        assert float((got[b] - want).abs().max()) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("queries", [1, 2, 3, 4, 31, 33, 35, 67, 192])
@pytest.mark.parametrize("keys", [1, 15, 16, 100, 511, 512, 513, 1100])
def test_log_sum_exp_of_the_kernel(dtype, masked, queries, keys):
    """The kernel's LSE is the log-sum-exp of the scores, for every shape it is used with and through its padding."""
    q, k, v = (torch.randn(1, 2, n, 32).to(dtype) for n in (queries, keys, keys))
    mask = None
    if masked:
        mask = torch.zeros(1, 1, queries, keys, dtype=dtype)
        mask[..., keys // 2 + 1 :] = -torch.inf
    out, lse = flash.attend(q, k, v, mask, 0.2, is_shared=True)
    scores = q.double() @ k.double().transpose(2, 3) * 0.2 + (0 if mask is None else mask.double())
    bound = 1e-5 if dtype == torch.float32 else 2e-2
    assert float((lse - scores.logsumexp(-1)).abs().max()) <= bound
    assert float((out - scores.softmax(-1) @ v.double()).abs().max()) <= bound


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("queries", [1, 2, 31, 32, 33, 100])
@pytest.mark.parametrize("keys", [1, 15, 513, 2100])
def test_log_sum_exp_of_the_products(softcap, queries, keys, monkeypatch):
    """The products' LSE, of scores far below and above zero, and the same bits however the queries are cut up."""
    if onednn.missing(torch.float32):
        pytest.skip(onednn.missing(torch.float32))
    if not onednn.rounds_alike(torch.float32):
        pytest.skip("this torch rounds a row differently in small batches")
    q, k, v = (torch.randn(1, 2, n, 32) for n in (queries, keys, keys))
    for shift in (-30.0, 0.0, 30.0):
        moved = k + shift * q[:, :, :1] / q[:, :, :1].square().sum(-1, keepdim=True)  # the first query's scores move
        out, lse = attention._products(q, moved, v, 1.0, softcap)
        scores = q.double() @ moved.double().transpose(2, 3)
        scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
        assert float((lse - scores.logsumexp(-1)).abs().max()) <= 1e-4
        assert float((out - scores.softmax(-1) @ v.double()).abs().max()) <= 1e-4
        monkeypatch.setattr(attention, "TILE", 1)
        assert all(map(torch.equal, attention._products(q, moved, v, 1.0, softcap), (out, lse)))
        monkeypatch.undo()


def test_scores_in_pieces_equal_scores_at_once(monkeypatch):
    """One key head at a time where the scores would be large: the same numbers."""
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 9, 8), torch.randn(2, 3, 9, 6)
    want = attention._attend_block(q, k, v, None, 0.4, 3.0)
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 10)
    got = attention._attend_block(q, k, v, None, 0.4, 3.0)
    assert float((got[0] - want[0]).abs().max()) <= 1e-6
    assert float((got[1] - want[1]).abs().max()) <= 1e-6
