"""The same token everywhere: across backends, batches, orders, strides, dtypes and threads, with ==."""

import numpy as np
import pytest
import torch

import fastsample

from .cases import ROWS, assert_same, row, run

PARAMETERS = dict(
    temperature=(0.3, 0.8, 1.0, 3.0, 100.0, 1e-4, 0.0),
    top_k=(0, 0, 1, 5, 50, 400, 3000, 20000),
    top_p=(1.0, 0.9, 0.95, 0.5, 0.999, 0.99999, 1e-3),
    min_p=(0.0, 0.0, 0.0, 0.05, 0.5, 1.0, 1e-9),
)
VOCABULARIES = (1, 2, 255, 256, 257, 1000, 5000, 20000)


@pytest.mark.parametrize("kind", ROWS)
def test_equals_the_reference_on_hostile_rows(backend, kind):
    """Tokens, kept counts and probabilities to the bit; statistics within 1e-5 of float64."""
    if backend == "reference":
        pytest.skip("this is the reference")
    rng = np.random.default_rng(sum(map(ord, kind)))
    for trial in range(24):
        vocab = VOCABULARIES[trial % len(VOCABULARIES)]
        dtype = (torch.float32, torch.bfloat16, torch.float16)[rng.integers(2 if kind == "huge" else 3)]
        x = row(kind, vocab, rng)[None].to(dtype)
        parameters = {name: rng.choice(values).item() for name, values in PARAMETERS.items()}
        draws = dict(seed=trial, stream=torch.arange(6), indices=torch.zeros(6, dtype=torch.int64))
        where = (kind, vocab, dtype, parameters)
        assert_same(run("reference", x, **parameters, **draws), run(backend, x, **parameters, **draws), where)
        p = fastsample.distribution(x, **parameters, backend=backend)
        assert torch.equal(p > 0, fastsample.distribution(x, **parameters, backend="reference") > 0), where


def mixed_batch(rows=24, vocab=3000, dtype=torch.float32):
    """Greedy rows beside filtered ones, a parameter set and a stream a row."""
    g = torch.Generator().manual_seed(1)
    parameters = dict(
        temperature=torch.tensor([0.0, 0.4, 0.8, 1.2]).repeat(rows // 4),
        top_k=torch.tensor([0, 40, 0, 2000, 0, 7], dtype=torch.int32).repeat(rows // 6),
        top_p=torch.tensor([1.0, 0.9, 0.5]).repeat(rows // 3),
        min_p=torch.tensor([0.0, 0.0, 0.0, 0.1]).repeat(rows // 4),
        seed=torch.arange(rows) // 5,
        stream=torch.randint(2**62, (rows,), generator=g),
        position=torch.randint(5000, (rows,), generator=g),
    )
    return torch.randn(rows, vocab, generator=g).mul(3).to(dtype), parameters


def pick(parameters, which):
    return {name: value[which] for name, value in parameters.items()}


def test_row_order_and_batch_split(backend):
    """A row's token depends on nothing but the row: not on its place, not on its neighbours."""
    x, parameters = mixed_batch()
    tokens = fastsample.sample(x, **parameters, backend=backend)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    assert torch.equal(fastsample.sample(x[order], **pick(parameters, order), backend=backend), tokens[order])
    for rows in (slice(0, 1), slice(5, 12), slice(20, 24)):
        assert torch.equal(fastsample.sample(x[rows], **pick(parameters, rows), backend=backend), tokens[rows])
    assert len(set(tokens.tolist())) > 10


def test_indices(backend):
    """`indices` reads the same rows as a gathered copy does."""
    x, parameters = mixed_batch()
    indices = torch.tensor([3] * 12 + [20, 1] * 6)
    tokens = fastsample.sample(x, **parameters, indices=indices, backend=backend)
    assert torch.equal(tokens, fastsample.sample(x[indices], **parameters, backend=backend))


def test_strides(backend):
    """Any row stride: slices of wider rows, every other row, one row expanded."""
    x, parameters = mixed_batch()
    tokens = fastsample.sample(x, **parameters, backend=backend)
    wide = torch.full((48, 3001), float("nan"))
    wide[::2, :3000] = x
    assert torch.equal(fastsample.sample(wide[::2, :3000], **parameters, backend=backend), tokens)
    one = x[:1].expand(24, -1)
    assert torch.equal(
        fastsample.sample(one, **parameters, backend=backend),
        fastsample.sample(one.contiguous(), **parameters, backend=backend),
    )


def test_expanded_rows_past_32_bits():
    """A row expanded to more than 2^31 elements is read where it is: no copy, no overflow."""
    x = torch.randn(1, 2048)
    rows = 2**31 // 2048 + 3
    indices = torch.tensor([0, rows - 1])
    a, b = fastsample.sample(x.expand(rows, -1), stream=torch.tensor([5, 5]), indices=indices)
    assert a == b


def test_dtypes_of_equal_value(backend):
    """bfloat16 and float16 logits draw what the same values draw in float32."""
    for dtype in (torch.bfloat16, torch.float16):
        x, parameters = mixed_batch(dtype=dtype)
        tokens = fastsample.sample(x, **parameters, backend=backend)
        assert torch.equal(tokens, fastsample.sample(x.float(), **parameters, backend=backend))


@pytest.mark.parametrize("rows", [1, 3, 24])
def test_threads(threads, rows):
    """Any number of threads, over rows and over the chunks of a row."""
    x, parameters = mixed_batch(vocab=100_003)
    x, parameters = x[:rows], pick(parameters, slice(0, rows))
    threads(1)
    tokens, stats = fastsample.sample(x, **parameters, return_stats=True)
    for n in (2, 3, 8):
        threads(n)
        again, stats_again = fastsample.sample(x, **parameters, return_stats=True)
        assert torch.equal(again, tokens)
        assert all(torch.equal(a, b) for a, b in zip(stats, stats_again))


def test_callers_in_several_threads():
    """Calls from several Python threads at once do not disturb each other."""
    from concurrent.futures import ThreadPoolExecutor

    x, parameters = mixed_batch(vocab=20_000)
    tokens = fastsample.sample(x, **parameters)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: fastsample.sample(x, **parameters), range(64)))
    assert all(torch.equal(tokens, f) for f in found)


def test_a_forked_child_samples():
    """A forked process has none of its parent's threads; it makes its own."""
    import os

    x, parameters = mixed_batch(vocab=50_000)
    torch.set_num_threads(2)
    tokens = fastsample.sample(x, **parameters)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(tokens, fastsample.sample(x, **parameters)) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_flushed_denormals_change_nothing():
    """The process may flush denormals to zero; the contract does not."""
    x = torch.tensor([[3e-39, 2e-39, 1e-39, 0.0]])
    parameters = dict(temperature=2e-38, stream=torch.arange(64), indices=torch.zeros(64, dtype=torch.int64))
    tokens = fastsample.sample(x, **parameters)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        flushed = fastsample.sample(x, **parameters)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(tokens, flushed)
    assert len(set(tokens.tolist())) > 1


def test_logits_are_never_modified(backend):
    """Not by any filter, not in any dtype."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x, parameters = mixed_batch(dtype=dtype)
        before = x.clone()
        fastsample.sample(x, **parameters, return_stats=True, backend=backend)
        fastsample.distribution(x, top_p=0.9, backend=backend)
        assert torch.equal(x, before)
