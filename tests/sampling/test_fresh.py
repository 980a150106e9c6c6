"""Noise that nobody named is fresh, as in torch.multinomial; named noise is the same again; a Sampler counts."""

from __future__ import annotations

import pytest
import torch

import fastsample
from fastsample.sampling.sampler import Sampler

FLAT = torch.zeros(4, 5000)


def test_a_plain_call_is_fresh():
    """A loop of the shortest call never repeats its noise, and neither do the rows of one call."""
    drawn = torch.cat([fastsample.sample(FLAT) for _ in range(8)])
    assert len(set(drawn.tolist())) > 25


def test_torch_s_seed_fixes_fresh_noise():
    """As everything random in torch: torch.manual_seed, or a generator, gives it again."""
    torch.manual_seed(5)
    first, second = fastsample.sample(FLAT), fastsample.sample(FLAT)
    torch.manual_seed(5)
    assert torch.equal(fastsample.sample(FLAT), first)
    assert torch.equal(fastsample.sample(FLAT), second)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    a, b = (torch.stack([fastsample.sample(FLAT, generator=g) for _ in range(3)]) for g in generators)
    assert torch.equal(a, b)
    assert not torch.equal(a[0], a[1])


@pytest.mark.parametrize("named", [{"seed": 0}, {"position": 0}, {"stream": [0, 1, 2, 3]}])
def test_one_name_is_the_reproducible_form(named):
    """Each of seed, stream and position alone: what is not named is 0, or the row's number."""
    want = fastsample.sample(FLAT, seed=0, stream=[0, 1, 2, 3], position=0)
    torch.manual_seed(1)
    assert torch.equal(fastsample.sample(FLAT, **named), want)
    torch.manual_seed(2)
    assert torch.equal(fastsample.sample(FLAT, **named), want)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"generator": torch.Generator(), "seed": 1}, ValueError, "got seed, stream or position as well"),
        ({"generator": 7}, TypeError, "generator must be a torch.Generator, got int; or name a seed"),
    ],
)
def test_a_generator_is_no_name(arguments, error, message):
    """Two sources of noise at once are an error, as is a number for a generator."""
    with pytest.raises(error, match=message):
        fastsample.sample(FLAT, **arguments)


def test_compiled_code_is_fresh_too():
    """The seed is drawn when the graph runs and not when it is traced."""
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: fastsample.sample(x), backend="eager", fullgraph=True)
    assert len(set(torch.cat([compiled(FLAT) for _ in range(4)]).tolist())) > 12
    torch.manual_seed(4)
    want = compiled(FLAT)
    torch.manual_seed(4)
    assert torch.equal(compiled(FLAT), want)


def test_a_sampler_counts_positions():
    """The tokens of a hand-written loop are those of `sample` with the positions written out."""
    sampler = Sampler(temperature=[0.5, 1.0, 2.0, 9.0], seed=7, position=[10, 20, 30, 40])
    for step in range(3):
        want = fastsample.sample(
            FLAT, temperature=[0.5, 1.0, 2.0, 9.0], seed=7, position=[10 + step, 20 + step, 30 + step, 40 + step]
        )
        assert torch.equal(sampler(FLAT), want)


def test_a_row_keeps_its_noise_when_others_leave():
    """After `keep`, the rows that are left draw what they would have drawn among all."""
    logits = torch.randn(4, 5000)
    settings = {"temperature": [0.5, 1.0, 2.0, 9.0], "seed": 3, "position": 5}
    whole, thinned = Sampler(**settings), Sampler(**settings)
    assert torch.equal(whole(logits), thinned(logits))
    thinned.keep([3, 1])
    assert torch.equal(whole(logits)[[3, 1]], thinned(logits[[3, 1]]))
    tokens, stats = whole(logits, return_stats=True)
    assert stats.logprob.shape == tokens.shape


def test_samplers_without_a_seed_differ():
    """Each takes a fresh seed, tells it, and can be made again from it."""
    torch.manual_seed(0)
    one, two = Sampler(), Sampler()
    first = one(FLAT)
    assert not torch.equal(first, two(FLAT))
    assert torch.equal(Sampler(seed=one.seed)(FLAT), first)


def test_a_sampler_that_refuses_counts_nothing():
    """After an error the next call draws what the refused one would have."""
    sampler = Sampler(seed=1)
    with pytest.raises(ValueError, match="holds a NaN"):
        sampler(FLAT * torch.nan)
    assert torch.equal(sampler(FLAT), Sampler(seed=1)(FLAT))
