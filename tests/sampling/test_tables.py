"""Rows that a person can compute."""

import math

import pytest
import torch

import fastsample

LOGITS = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
TABLE = [  # parameters, the tokens kept
    (dict(), [0, 1, 2, 3]),
    (dict(top_k=1), [3]),
    (dict(top_k=2), [2, 3]),
    (dict(top_k=4), [0, 1, 2, 3]),
    (dict(top_k=9), [0, 1, 2, 3]),
    (dict(top_p=0.3), [3]),
    (dict(top_p=0.65), [2, 3]),
    (dict(top_p=0.75), [1, 2, 3]),
    (dict(top_p=0.95), [0, 1, 2, 3]),
    (dict(top_k=2, top_p=0.5), [3]),  # 0.4 of 0.7 is 0.57: top_p counts within top_k
    (dict(top_k=2, top_p=0.6), [2, 3]),
    (dict(min_p=0.2), [0, 1, 2, 3]),
    (dict(min_p=0.3), [1, 2, 3]),
    (dict(min_p=0.6), [2, 3]),
    (dict(min_p=1.0), [3]),
    (dict(min_p=0.3, top_k=2), [2, 3]),
    (dict(min_p=0.6, top_p=0.95), [2, 3]),
    (dict(temperature=0), [3]),
    (dict(temperature=0.5, top_p=0.5), [3]),  # 16 / 30
    (dict(temperature=0.5, top_p=0.55), [2, 3]),
]


@pytest.mark.parametrize(("parameters", "kept"), TABLE, ids=lambda v: str(v) if isinstance(v, dict) else "")
def test_kept_tokens(backend, parameters, kept):
    """The filters keep what the table says, with the table's probabilities, renormalised."""
    p = fastsample.distribution(LOGITS, backend=backend, **parameters)[0]
    weights = LOGITS[0].double() / (parameters.get("temperature", 1.0) or 1e-3)
    expected = torch.zeros(4, dtype=torch.double)
    expected[kept] = weights[kept].softmax(0)
    assert p.nonzero().flatten().tolist() == kept
    assert (p - expected).abs().max() <= 1e-6
    token, stats = fastsample.sample(LOGITS, return_stats=True, backend=backend, **parameters)
    assert int(token) in kept
    assert int(stats.kept) == len(kept)
    assert abs(float(stats.logprob) - math.log(float(p[token]))) <= 1e-5


def test_ties_are_settled_by_index(backend):
    """Of equal logits the first by index are kept, and the argmax is the lowest index."""
    x = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0]])
    assert fastsample.sample(x, temperature=0, backend=backend).item() == 1
    assert fastsample.distribution(x, top_k=2, backend=backend)[0].nonzero().flatten().tolist() == [1, 2]
    assert fastsample.distribution(torch.zeros(1, 600), top_k=300, backend=backend)[0].nonzero().max() == 299
    half = fastsample.distribution(torch.zeros(1, 512), top_p=0.5, backend=backend)[0]
    assert half.nonzero().flatten().tolist() == list(range(256))


def test_statistics_of_a_known_row(backend):
    """Log-probability, entropy and self-certainty of a row whose softmax is known, whatever the temperature."""
    token, stats = fastsample.sample(LOGITS, temperature=0.3, top_k=2, return_stats=True, backend=backend)
    p = LOGITS[0].double().exp()
    assert abs(stats.raw_logprob.item() - p[token].log().item()) <= 1e-5
    assert abs(stats.entropy.item() + (p * p.log()).sum().item()) <= 1e-5
    assert abs(stats.self_certainty.item() - (-p.log().mean() - math.log(4)).item()) <= 1e-5
    assert stats.status.item() == 0


def test_a_forbidden_token_has_infinite_self_certainty(backend):
    """-inf in the row makes its mean -inf; the entropy stays finite."""
    x = torch.tensor([[0.0, -math.inf, 0.0]])
    stats = fastsample.sample(x, return_stats=True, backend=backend)[1]
    assert stats.self_certainty.item() == math.inf
    assert abs(stats.entropy.item() - math.log(2)) <= 1e-5


def test_sparse_distribution(backend):
    """Ids and probabilities of the kept tokens, most probable first, padded with -1 and 0."""
    rows = torch.cat([LOGITS, LOGITS.flip(1)])
    sparse = fastsample.distribution(rows, top_k=torch.tensor([2, 3]), sparse=True, backend=backend)
    assert sparse.ids.tolist() == [[3, 2, -1], [0, 1, 2]]
    assert sparse.probabilities[0, 2] == 0
    assert (sparse.probabilities.sum(1) - 1).abs().max() <= 1e-6


def test_statistics_beyond_float32_are_infinite(backend):
    """Logits at both ends of float32: their mean lies further below the highest than a float32 can, and is no error."""
    ends = torch.tensor([[3e38, -3e38, -3e38]])
    tokens, stats = fastsample.sample(ends, return_stats=True, backend=backend)
    assert tokens.tolist() == [0]
    assert stats.self_certainty.tolist() == [math.inf]
    assert (stats.raw_logprob.tolist(), stats.status.tolist()) == ([0], [0])
    assert stats.entropy.item() <= 1e-5
