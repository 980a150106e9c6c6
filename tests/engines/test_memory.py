"""The plan's bytes against what a run really allocates."""

from __future__ import annotations

import pytest
import torch
from tiny import SHARE, sharing, tiny

from fastsample.engines.base import Request
from fastsample.engines.local import memory
from fastsample.engines.local.engine import LocalEngine
from fastsample.engines.local.runners import SharedPrefixRunner
from fastsample.shared_prefix import sizes


def plan_of(model, **changes):
    return memory.memory_plan_of(model, **{"prompt_tokens": 50, "samples": 5, "max_new_tokens": 70, **changes})


@pytest.mark.parametrize(("name", "dtype"), [*((name, torch.float32) for name in SHARE), ("llama", torch.bfloat16)])
def test_plan_is_what_a_run_allocates(name, dtype):
    """Prefix and tails to the byte, windows, shared layers and odd head widths included."""
    model = sharing(name, dtype)
    engine = SharedPrefixRunner(model)
    prefix = engine.prefill([3 + i for i in range(50)])
    engine.add(prefix, 5)
    for _ in range(65):  # one more than the first storage holds
        engine.step(torch.full((5,), 7))
    plan = plan_of(model)
    assert plan.prefix == prefix.cache.nbytes
    assert plan.tails == engine.cache.nbytes
    assert plan.weights == memory.weight_bytes(model)


def test_closed_form():
    """Two layers of two key heads of width 8 in float32: 256 bytes a token, by hand."""
    plan = plan_of(tiny("llama"), budget=10**6)
    assert plan.prefix == 50 * 256
    assert plan.tails == 5 * 128 * 256
    assert plan.logits == 5 * 101 * 4
    assert plan.repeated == 5 * 120 * 256
    left = 10**6 - plan.weights
    assert plan.fits_shared == (left - 50 * 256) // (128 * 256 + 404)
    assert plan.fits_repeated == left // (120 * 256 + 404)
    assert plan.shared_total == plan.weights + plan.prefix + plan.tails + plan.logits
    assert "5 samples of up to 70 tokens over a prompt of 50 take" in plan.sentence()


def test_what_fits_is_the_largest_number():
    """With that many samples the budget holds, with one more it does not."""
    model = tiny("gemma2")
    budget = memory.weight_bytes(model) + 3_000_000
    n = plan_of(model, budget=budget).fits_shared
    assert plan_of(model, samples=n).shared_total <= budget < plan_of(model, samples=n + 1).shared_total
    n = plan_of(model, budget=budget).fits_repeated
    assert plan_of(model, samples=n).repeated_total <= budget < plan_of(model, samples=n + 1).repeated_total
    assert plan_of(model, budget=0).fits_shared == 0


@pytest.mark.parametrize("name", ["prompt_tokens", "samples", "max_new_tokens"])
def test_numbers_below_one(name):
    """N = 0 and its kind are refused with rule and value."""
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        plan_of(tiny("llama"), **{name: 0})


def test_storage_doubles_up_to_the_window():
    """16 columns, then twice as many each time; a window of 40 in whole vectors of 16 is 48, and no more."""
    assert [sizes.allocated(n) for n in (1, 16, 17, 64, 65, 1000)] == [16, 16, 32, 64, 128, 1024]
    assert [sizes.allocated(n, sizes.ring_of(40)) for n in (1, 33, 1000)] == [16, 48, 48]


def test_available_memory_is_told_on_linux():
    """Some memory is free, and a device that cannot tell gives None."""
    assert memory.available_bytes() is None or memory.available_bytes() > 10**6
    assert memory.available_bytes("meta") is None


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3_text", "gpt2"])
def test_parked_paths_are_counted(name):
    """Their own tokens and a row of logits, to the byte: what a leg behind a leg really keeps."""
    model = sharing(name)
    engine = LocalEngine(model, None)
    ids, parked = tuple(range(3, 53)), []
    for _ in range(2):
        after = parked[-1] if parked else None
        (s,) = engine.submit([Request(ids, after=after, max_new_tokens=30, eos=(), park=True)])
        engine.run()
        ids, parked = (*ids, *s.tokens), [*parked, s.parked]
    kept = [p._prefix for p in parked]
    assert plan_of(model, max_new_tokens=30, parked=2).parked == sum(p.cache.nbytes + p.logits.nbytes for p in kept)
    assert plan_of(model, parked=2).shared_total == plan_of(model).shared_total + plan_of(model, parked=2).parked
    budget = memory.weight_bytes(model) + 3_000_000
    n = plan_of(model, parked=9, budget=budget).fits_shared
    assert plan_of(model, parked=9, samples=n).shared_total <= budget
    assert budget < plan_of(model, parked=9, samples=n + 1).shared_total
    with pytest.raises(ValueError, match="parked must be at least 0, got -1"):
        plan_of(model, parked=-1)
