"""Every bad argument: the rule, the value, the row, the remedy."""

import math

import pytest
import torch

import fastsample

GOOD = torch.zeros(3, 4)
NAN = float("nan")
CASES = [  # logits, parameters, what the message must say
    (torch.zeros(4), {}, ValueError, r"\[rows, vocab\], got shape \(4,\).*logits\[None\]"),
    (torch.zeros(2, 3, 4), {}, ValueError, "got shape"),
    (torch.zeros(3, 0), {}, ValueError, "vocabulary of 0"),
    (torch.zeros(3, 4, dtype=torch.float64), {}, TypeError, "float32, float16 or bfloat16, got torch.float64"),
    (torch.zeros(3, 4, dtype=torch.int64), {}, TypeError, "torch.int64"),
    ([[1.0]], {}, TypeError, "must be a torch.Tensor, got list"),
    (torch.zeros(4, 3).t(), {}, ValueError, "stride 3; call .contiguous()"),
    (GOOD, dict(temperature=-0.1), ValueError, "temperature must be >= 0, got -0.1; 0 takes the argmax"),
    (GOOD, dict(temperature=NAN), ValueError, "temperature must be >= 0, got nan"),
    (GOOD, dict(temperature=torch.tensor([1.0, -1.0, 1.0])), ValueError, "temperature must be >= 0, got -1 at row 1"),
    (GOOD, dict(temperature=torch.tensor([1.0, 1.0, NAN])), ValueError, "got nan at row 2"),
    (GOOD, dict(temperature=torch.ones(2)), ValueError, r"temperature must be .*\[3\].* got shape \(2,\)"),
    (GOOD, dict(temperature="hot"), TypeError, "temperature must be a number or a .* got str"),
    (GOOD, dict(top_p=0), ValueError, r"top_p must be in \(0, 1\], got 0; 1 keeps every token"),
    (GOOD, dict(top_p=1.2), ValueError, "got 1.2"),
    (GOOD, dict(top_p=torch.tensor([1.0, 0.5, 1.5])), ValueError, "got 1.5 at row 2"),
    (GOOD, dict(min_p=-0.1), ValueError, r"min_p must be in \[0, 1\], got -0.1; 0 keeps every token"),
    (GOOD, dict(min_p=2), ValueError, "got 2"),
    (GOOD, dict(top_k=-1), ValueError, "top_k must be >= 0, got -1; 0 keeps every token"),
    (GOOD, dict(top_k=1.5), TypeError, "top_k must be a whole number, got 1.5"),
    (GOOD, dict(top_k=torch.tensor([1, -2, 0])), ValueError, "got -2 at row 1"),
    (GOOD, dict(top_k=torch.ones(3)), TypeError, "top_k must hold whole numbers, got dtype torch.float32"),
    (GOOD, dict(seed=2**63), ValueError, "seed must fit in 64 bits"),
    (GOOD, dict(seed=torch.zeros(3, 1, dtype=torch.int64)), ValueError, "seed must be"),
    (GOOD, dict(stream=5), TypeError, "stream must be None or a .* tensor, got 5"),
    (GOOD, dict(stream=torch.zeros(2, dtype=torch.int64)), ValueError, "stream must be"),
    (GOOD, dict(indices=torch.tensor([0, 3])), ValueError, r"indices must be in \[0, 3\).* got 3 at row 1"),
    (GOOD, dict(indices=torch.tensor([-1])), ValueError, "got -1 at row 0"),
    (GOOD, dict(indices=torch.tensor([0.0])), TypeError, "indices must hold whole numbers"),
    (GOOD, dict(out=torch.zeros(3)), TypeError, "out must be an int64 tensor, got torch.float32"),
    (GOOD, dict(out=torch.zeros(4, dtype=torch.int64)), ValueError, r"out must be a contiguous \[3\] tensor"),
    (GOOD, dict(out=torch.zeros(6, dtype=torch.int64)[::2]), ValueError, "out must be a contiguous"),
    (GOOD, dict(backend="gpu"), ValueError, "backend must be None or one of .*cpu.*, got 'gpu'"),
]


@pytest.mark.parametrize(("logits", "parameters", "error", "message"), CASES, ids=[c[3][:40] for c in CASES])
def test_bad_arguments(logits, parameters, error, message):
    """One place raises, and says rule, value and remedy."""
    with pytest.raises(error, match=message):
        fastsample.sample(logits, **parameters)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.0, NAN], "row 1 holds a NaN"),
        ([0.0, math.inf], r"row 1 holds \+inf"),
        ([-math.inf, -math.inf], "row 1 has no finite logit"),
        ([math.inf, NAN], "row 1 holds a NaN"),
    ],
)
@pytest.mark.parametrize("parameters", [{}, dict(temperature=0), dict(top_p=0.5), dict(return_stats=True)], ids=str)
def test_invalid_rows_are_named(backend, row, message, parameters):
    """A row that cannot be sampled is named, with what it holds; the other rows are fine."""
    logits = torch.tensor([[0.0, 1.0], row])
    with pytest.raises(ValueError, match=message):
        fastsample.sample(logits, **parameters, backend=backend)
    with pytest.raises(ValueError, match=message):
        fastsample.distribution(logits, backend=backend)


@pytest.mark.parametrize("at", [0, 255, 256, 599])
def test_an_invalid_logit_is_found_anywhere(backend, at):
    """In the first lane, at a chunk's edges, in the short last chunk; and where `indices` points."""
    for value, temperature in ((NAN, 1.0), (NAN, 0.0), (math.inf, 1.0), (math.inf, 0.0)):
        logits = torch.randn(3, 600)
        logits[2, at] = value
        with pytest.raises(ValueError, match="row 0 holds"):
            fastsample.sample(logits, indices=torch.tensor([2]), temperature=temperature, backend=backend)


def test_a_nan_among_forbidden_tokens_is_found(backend):
    """A chunk of -inf alone is skipped by no backend before it was looked at."""
    logits = torch.full((1, 512), -math.inf)
    logits[0, 0] = 0
    logits[0, 300] = NAN
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match="holds a NaN"):
            fastsample.sample(logits, temperature=temperature, backend=backend)


def test_no_rows(backend):
    """B = 0 gives an empty result."""
    tokens, stats = fastsample.sample(torch.zeros(0, 5), return_stats=True, backend=backend)
    assert tokens.shape == (0,)
    assert all(column.shape == (0,) for column in stats)
    empty = torch.empty(0, dtype=torch.int64)
    assert fastsample.sample(torch.zeros(2, 5), indices=empty, backend=backend).shape == (0,)
    assert fastsample.distribution(torch.zeros(0, 5), sparse=True, backend=backend).ids.shape == (0, 0)


def test_arguments_of_many_kinds():
    """Lists, 0-dim tensors, int64 top_k beyond 32 bits and numpy numbers mean what they say."""
    import numpy as np

    x = torch.randn(3, 50)
    a = fastsample.sample(x, temperature=[0.5, 0.5, 0.5], top_k=torch.tensor([2**40] * 3), seed=np.int64(3))
    b = fastsample.sample(x, temperature=torch.tensor(0.5), seed=3)
    assert torch.equal(a, b)
    out = torch.empty(3, dtype=torch.int64)
    assert fastsample.sample(x, temperature=np.float32(0.5), seed=3, out=out) is out
    assert torch.equal(out, a)


def test_a_backend_that_cannot_run_says_why(monkeypatch):
    """Asked for by name: its sentence. Not asked for: the next backend."""
    from fastsample.sampling.backends import cpu

    monkeypatch.setattr(cpu, "_cpu", None)
    monkeypatch.setattr(cpu, "_missing", "the compiled extension is missing", raising=False)
    with pytest.raises(ValueError, match="backend 'cpu' cannot run: the compiled extension is missing"):
        fastsample.sample(GOOD, backend="cpu")
    assert fastsample.sample(GOOD).shape == (3,)
    assert fastsample.info()["instruction_set"] is None
