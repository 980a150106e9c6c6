"""What `test_triton_interpreter.py` runs in a process of its own: the Python source in Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fastsample
from fastsample.sampling.api import empty_stats
from fastsample.sampling.backends.triton import draw as triton_draw
from fastsample.sampling.backends.triton import kernels as triton_kernels
from fastsample.sampling.backends.triton import launch as backend
from fastsample.sampling.backends.triton.edits import edit
from fastsample.sampling.contract import Case, Stats
from fastsample.sampling.dispatch import load_backend
from fastsample.sampling.edits import edited
from fastsample.sampling.reference import filtered
from sampling.cases import ROWS, assert_same, row, run, unchecked, vectors
from sampling.edit_cases import edit_vectors, mask_of, packed, random_edits
from sampling.test_equality import PARAMETERS

from . import (
    draws,
    interpreter,  # noqa: F401  (makes the interpreter exact)
    ptx,
)

VOCABULARIES = (1, 257, 1000, 9000)


@pytest.mark.parametrize("part", range(4))
def test_vectors(part):
    """The first draw of every sixth vector of at most 5,000 tokens: token and kept count."""
    small = [v for v in vectors() if v.logits.shape[1] <= 5000][::6]
    wrong = []
    for v in small[part::4]:
        draw = {n: torch.tensor(getattr(v, n + "s")[:1]) for n in ("seed", "stream", "position")}
        tokens, stats = run("triton", v.logits, **v.parameters, **draw)
        if tokens.tolist() != v.tokens[:1] or (v.kept >= 0 and stats.kept.item() != v.kept):
            wrong.append((v.name, v.parameters, tokens.item(), v.tokens[0], stats.kept.item(), v.kept))
    assert small
    assert not wrong


@pytest.mark.parametrize("kind", ROWS)
def test_hostile_rows(kind):
    """Tokens and kept counts to the bit, statistics within 1e-5, over vocabularies, dtypes and filters."""
    rng = np.random.default_rng(sum(map(ord, kind)) + 1)
    for trial, vocab in enumerate(VOCABULARIES):
        dtype = (torch.float32, torch.bfloat16, torch.float16)[rng.integers(2 if kind == "huge" else 3)]
        x = row(kind, vocab, rng)[None].to(dtype)
        parameters = {name: rng.choice(values).item() for name, values in PARAMETERS.items()}
        where = (kind, vocab, dtype, parameters)
        expected = run("reference", x, **parameters, seed=trial)
        assert_same(expected, run("triton", x, **parameters, seed=trial), where)


@pytest.mark.parametrize("temperature", [1e-38, 1.0, 3.8e36, 5e37, 3e38])
def test_every_chunk_has_its_sum(temperature):
    """What the first kernel leaves, to the bit: of whole tiles and the tail, also where the quick weights give way."""
    x = row("normal", 9000, np.random.default_rng(1)) * min(temperature * 2, 8e37)
    case = Case.of(x[None], temperature, 0, 1.0, 0.0, 0, None, 0, None)
    memory = torch.full((backend.words(backend.chunks_of(len(x)), False),), -1)
    given = backend.arguments(case, memory, False)
    triton_kernels.chunk_statistics[1, 2](*given, **backend.first_constants(False))
    tops, sums = ptx.left_by_first(case, memory)
    expected = filtered(x.numpy(), float(np.float32(temperature)), 0, 1.0, 0.0).weight.sum(1)
    assert sums.tolist() == expected.tolist()
    assert tops.tolist() == [part.max().item() for part in x.split(256)]


@pytest.mark.parametrize("filters", [dict(temperature=0.0), dict(top_k=40), dict(top_k=3, top_p=0.5), dict(min_p=0.1)])
def test_maxima_are_enough(filters):
    """Where no mass of the whole row is asked for, the first kernel leaves the sums alone."""
    x = row("normal", 9000, np.random.default_rng(1))[None]
    case = Case.of(x, *(draws.OFF | filters).values(), 0, None, 0, None)
    memory = torch.full((backend.words(backend.chunks_of(9000), False),), -1)
    triton_kernels.chunk_statistics[1, 2](*backend.arguments(case, memory, False), **backend.first_constants(False))
    tops, sums = ptx.left_by_first(case, memory)
    assert tops.tolist() == [part.max().item() for part in x[0].split(256)]
    assert set(sums.tolist()) == {-1}


@pytest.mark.parametrize("vocab", [250, 1000, 9000])
def test_ties_of_almost_no_weight(vocab):
    """Ties whose masses are below the rounding that a search by mass must allow for: it goes on by index."""
    x = torch.full((1, vocab), -20.6)
    x[0, vocab // 3] = 0
    filters = dict(top_p=1 - 2.0**-23, seed=torch.arange(4), indices=torch.zeros(4).long())
    assert_same(run("reference", x, **filters), run("triton", x, **filters), vocab)


def test_invalid_rows_and_indices():
    """Each status has its code; an index out of range reads nothing and draws nothing."""
    x = torch.randn(4, 300)
    x[0, 7], x[1, 299], x[2] = float("nan"), float("inf"), float("-inf")
    tokens, stats = run("triton", x)
    assert tokens[:3].tolist() == [-1, -1, -1]
    assert tokens[3] >= 0
    assert stats.status.tolist() == [1, 2, 3, 0]
    assert stats.kept.tolist() == [0, 0, 0, 300]
    assert stats.entropy[:3].isnan().all()


def test_parameters_out_of_range():
    """A GPU's [B] tensors are not looked at: such a row's token is -1, with a status of its own."""
    case, codes = unchecked(torch.randn(1, 300, generator=torch.Generator().manual_seed(1)) * 3)
    expected, found = torch.full((2, case.rows), -2)
    stats = empty_stats(case)
    load_backend("reference").sample(case, expected, None)
    backend.sample(case, found, stats)
    assert found.tolist() == expected.tolist()
    assert stats.status.tolist() == codes


def test_strides_and_columns():
    """A slice of wider rows, rows expanded from one, and a value a row for every parameter."""
    wide = torch.full((6, 700), float("nan"))
    wide[:, 3:603] = torch.randn(6, 600, generator=torch.Generator().manual_seed(3)) * 3
    columns = dict(
        temperature=torch.tensor([0.0, 0.5, 1.0, 1.5, 1.0, 1.0]),
        top_k=torch.tensor([0, 5, 0, 100, 0, 600]),
        top_p=torch.tensor([1.0, 0.9, 0.5, 0.99, 1.0, 0.8]),
        min_p=torch.tensor([0.0, 0.0, 0.0, 0.01, 0.2, 0.0]),
        seed=torch.tensor([1, -1, 2**62, 3, 4, 5]),
        stream=torch.tensor([9, 8, 7, -6, 5, 4]),
        position=torch.tensor([0, 1, 2, 2**40, 4, 5]),
    )
    for x in (wide[:, 3:603], wide[2:3, 3:603].expand(6, -1)):
        expected = fastsample.sample(x, **columns, backend="reference")
        assert torch.equal(fastsample.sample(x, **columns, backend="triton"), expected)


def test_a_wrong_kernel_fails(monkeypatch):
    """The comparison sees weights that are a thousandth too large."""
    right = triton_draw.weight.rewrite()
    monkeypatch.setattr(triton_draw, "weight", lambda x, top, c: right(x, top, c) + 2**20)
    x = torch.tensor([[0.0, -3.0]])
    logprobs = {run(b, x, seed=3)[1].logprob.item() for b in ("reference", "triton")}
    assert len(logprobs) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_edits(dtype):
    """Penalties, biases and bitmasks, alone and together: the tokens of the reference, row by row."""
    rng = np.random.default_rng(4)
    for vocab in (1, 70, 3000):
        x = torch.stack([row(kind, vocab, rng) for kind in ("normal", "masked", "few values")]).to(dtype)
        indices = torch.tensor([2, 0, 1, 0])
        allowed = packed([mask_of(kind, vocab, rng) for kind in ("all", "few", "most", "halves")], vocab)
        for edits, mask in (
            (random_edits(vocab, 4, rng), None),
            (None, allowed),
            (random_edits(vocab, 4, rng), allowed),
        ):
            columns = None if edits is None else edits.columns
            case = Case.of(x, 0.8, 0, 0.9, 0.0, 7, None, 0, indices, edits, mask)
            y = edited(x[indices], columns, mask)
            found, expected = torch.full((2, 4), -2)
            stats, wanted = empty_stats(case), empty_stats(case)
            backend.sample(case, found, stats)
            load_backend("reference").sample(case.of_edited(y), expected, wanted)
            assert stats.status.tolist() == wanted.status.tolist()
            drawn = wanted.status == 0  # an invalid row's statistics are NaN
            both_stats = [Stats(*(column[drawn] for column in columns)) for columns in (wanted, stats)]
            assert_same((expected, both_stats[0]), (found, both_stats[1]), (vocab, dtype))


def test_edits_of_every_vector():
    """The vectors' tokens, and the values themselves, which the edit pass leaves in memory."""
    for v in edit_vectors():
        case = Case.of(v.logits, 1.0, 0, 1.0, 0.0, 7, torch.tensor([2]), 3, None, v.edits, v.allowed)
        rows = torch.full((1, v.logits.shape[1]), 7.0, dtype=v.logits.dtype)
        edit(case, rows, 32)
        assert rows[0].tolist() == v.edited, (v.name, v.logits.dtype)
        tokens = torch.full((1,), -2)
        backend.sample(case, tokens, None)
        assert tokens.item() == v.tokens[2]
