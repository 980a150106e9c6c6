"""The distribution of the draws, at a million of them.

The draws are made by the fastest backend; that it is the reference's draw is asserted on 300 of each here and by the
other tests everywhere.
"""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2

import fastsample

MILLION = 1_000_000


def draws(logits, n=MILLION, seed=0, seeds=None, streams=None, **parameters):
    """n tokens of one row, a stream each."""
    stream = torch.arange(n) if streams is None else streams
    indices = torch.zeros(n, dtype=torch.int64)
    seed = seed if seeds is None else seeds
    tokens = fastsample.sample(logits[None], seed=seed, stream=stream, indices=indices, **parameters)
    few = dict(stream=stream[:300], seed=seed if seeds is None else seeds[:300])
    expected = fastsample.sample(logits[None], indices=indices[:300], **few, **parameters, backend="reference")
    assert torch.equal(tokens[:300], expected)
    return tokens


def chi_square(counts, probabilities):
    """The p-value over all bins that expect 10 or more, the rest as one."""
    n = counts.sum()
    expected = probabilities * n
    is_large = expected >= 10
    counts = np.append(counts[is_large], counts[~is_large].sum())
    expected = np.append(expected[is_large], expected[~is_large].sum())
    counts, expected = counts[expected > 0], expected[expected > 0]
    return chi2.sf(((counts - expected) ** 2 / expected).sum(), len(counts) - 1)


@pytest.mark.parametrize(
    "parameters",
    [
        dict(),
        dict(temperature=0.7, top_p=0.9),
        dict(temperature=1.5, top_k=40),
        dict(min_p=0.1),
        dict(top_k=100, top_p=0.8),
    ],
    ids=str,
)
def test_chi_square(parameters):
    """The counts of a million draws against the float64 distribution, chunks and filters included."""
    x = torch.randn(700, generator=torch.Generator().manual_seed(4)) * 2
    p = exact(x, **parameters)
    counts = np.bincount(draws(x, **parameters).numpy(), minlength=700)
    assert counts[p == 0].sum() == 0
    assert chi_square(counts, p) >= 1e-4


def test_chi_square_can_fail():
    """A distribution that is off by 5 % in one large bin is noticed."""
    x = torch.randn(700, generator=torch.Generator().manual_seed(4)) * 2
    p = exact(x)
    counts = np.bincount(draws(x).numpy(), minlength=700)
    p[p.argmax()] *= 1.05
    assert chi_square(counts, p / p.sum()) < 1e-4


def exact(x, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """[V] float64: the filters by sorting, as transformers' warpers do it."""
    p = torch.softmax(x.double() / temperature, 0).numpy()
    order = np.argsort(-p, kind="stable")
    keep = np.zeros(len(p), bool)
    keep[order[: top_k or len(p)]] = True
    q = np.where(keep, p, 0)
    q /= q.sum()
    before = np.cumsum(q[order]) - q[order]
    keep &= (before < top_p)[np.argsort(order)] & (p >= min_p * p.max())
    return np.where(keep, p, 0) / p[keep].sum()


@pytest.mark.slow
@pytest.mark.parametrize("gap", [18.0, 20.5])
def test_heavy_tail(gap):
    """32,767 tokens far below one: noise of 24 or 32 bits would starve them."""
    x = torch.full((32768,), -gap)
    x[12345] = 0
    p = 32767 * math.exp(-gap)
    p /= 1 + p
    tail = int((draws(x) != 12345).sum())
    z = (tail - MILLION * p) / math.sqrt(MILLION * p * (1 - p))
    assert abs(z) <= 4
    assert tail > 10


def test_every_id_is_reachable():
    """Each of 1,000 equally likely tokens turns up, the edges of the chunks among them."""
    assert len(draws(torch.zeros(1000), 40_000).unique()) == 1000


@pytest.mark.parametrize("which", ["seeds", "streams", "positions"])
def test_neighbours_are_independent(which):
    """Draws of consecutive seeds, streams or positions: chi-square of the pairs against independence."""
    n, bins = MILLION // 2, 16
    x = torch.zeros(bins)
    number = torch.arange(n)
    if which == "seeds":
        tokens = draws(x, n, seeds=number, streams=torch.zeros(n, dtype=torch.int64))
    elif which == "streams":
        tokens = draws(x, n)
    else:
        zeros = torch.zeros(n, dtype=torch.int64)
        tokens = fastsample.sample(x[None], stream=zeros, position=number, indices=zeros)
    pairs = (tokens[:-1] * bins + tokens[1:]).numpy()
    assert chi_square(np.bincount(pairs, minlength=bins * bins), np.full(bins * bins, bins**-2.0)) >= 1e-4
