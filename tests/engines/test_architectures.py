"""Every architecture's logits over a shared prefix against the model reading each full sequence alone."""

from __future__ import annotations

import copy

import pytest
import torch
from drive import drive, drive_paths, errors, prompts_of
from tiny import ATTENTION, FALL_BACK, INTERFACE, OWN_CACHES, SHARE, sharing, tiny
from transformers import cache_utils

from fastsample.engines.local.runners import ExpandedCacheRunner, RecomputeRunner, SharedPrefixRunner
from fastsample.engines.local.selection import runner_for, why_not
from fastsample.models.attention import SharingError
from fastsample.shared_prefix import attention, visibility

# Twice the naive error needs a floor for the cases in which the naive one happens to be tiny.
FLOOR = 1e-5


def check(name, length, dtype=torch.float32, **changes):
    model = sharing(name, dtype, **changes)
    steps = 15 if length <= 40 else 6
    ours, naive = errors(model, drive(SharedPrefixRunner(model), prompts_of(length), seed=length, steps=steps))
    assert ours <= 2 * naive + FLOOR, f"{ours:.2g} against {naive:.2g} of the model itself"


@pytest.mark.parametrize("length", [1, 40])
@pytest.mark.parametrize("name", SHARE)
def test_shared_prefix_equals_full_sequences(name, length):
    """Ragged rows of two prompts, retired and refilled at random; windows of 12 lie inside and across the prefix."""
    check(name, length)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARE)
def test_paths_equal_full_sequences(name):
    """A random tree of parked, extended, cut and read paths over two prompts, in every architecture that shares."""
    model = sharing(name)
    for length in (3, 30):
        ours, naive = errors(model, drive_paths(SharedPrefixRunner(model), prompts_of(length), seed=length))
        assert ours <= 2 * naive + FLOOR


@pytest.mark.parametrize("kind", [SharedPrefixRunner, ExpandedCacheRunner, RecomputeRunner])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "mamba"])
def test_paths_of_each_runner_equal_full_sequences(name, kind):
    """Soft-capping, sinks, windows and a recurrent state, by every runner that can serve them."""
    model = tiny(name)
    if (kind is SharedPrefixRunner and why_not(model)) or (kind is ExpandedCacheRunner and name in OWN_CACHES):
        kind = RecomputeRunner
    ours, naive = errors(model, drive_paths(kind(model), prompts_of(20), rounds=4))
    assert ours <= 2 * naive + FLOOR


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::fastsample.fallback.FallbackWarning")
@pytest.mark.parametrize("name", FALL_BACK)
def test_paths_below_the_first_rung(name):
    """Whatever serves what cannot share keeps paths too."""
    model = tiny(name)
    ours, naive = errors(model, drive_paths(runner_for(model), prompts_of(12), rounds=4))
    assert ours <= 2 * naive + FLOOR


@pytest.mark.slow
@pytest.mark.parametrize("length", [255, 256, 1000])
@pytest.mark.parametrize("name", SHARE)
def test_long_shared_prefix_equals_full_sequences(name, length):
    """The same at and beyond the sizes at which kernels change their blocks."""
    check(name, length)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3_text", "qwen2-2", "gpt2", "mistral"])
def test_bfloat16_stays_within_twice_the_naive_error(name):
    """In bfloat16 the two-part attention is no worse than twice the model's own rounding."""
    check(name, 130, torch.bfloat16)


@pytest.mark.parametrize("window", [2, 40, 43, 44, 2000])
def test_windows_of_any_size(window):
    """A window of two tokens, one that ends just at, inside and behind the prefix, and one that is never reached."""
    check("mistral", 40, sliding_window=window)


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gpt_oss", "qwen2-2", "gemma4_text-2"])
def test_tails_go_round_their_window(name):
    """Rows three and four times as long as the window, beside rows that have just begun."""
    model = tiny(name)
    ours, naive = errors(model, drive(SharedPrefixRunner(model), prompts_of(20), steps=45, rows=1, retires=False))
    assert ours <= 2 * naive + FLOOR


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SHARE)
def test_why_not_has_no_objection(name, dtype):
    """The handshake lets every architecture of the list through; coarse rounding is no objection."""
    assert why_not(sharing(name, dtype)) is None


@pytest.mark.model
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_why_not_has_no_objection_to_a_real_model(embedded, dtype):
    """A trained model's bfloat16 logits are further off than a tiny one's, and still it shares."""
    assert why_not(copy.deepcopy(embedded[0]).to(dtype)) is None


@pytest.mark.filterwarnings("ignore::fastsample.fallback.FallbackWarning")
@pytest.mark.parametrize("name", FALL_BACK)
def test_fallback_says_why_and_is_right(name):
    """What cannot share says so in one sentence, is served by a rung below, and comes out right."""
    model, (_, words) = tiny(name), FALL_BACK[name]
    reason = why_not(model)
    if reason is None:  # transformers moves one architecture after the other to its attention interface
        assert words in (INTERFACE, ATTENTION)
    else:
        assert words in reason or not has_layer_types()
    runner = runner_for(model)
    assert isinstance(runner, SharedPrefixRunner) == (reason is None)
    ours, naive = errors(model, drive(runner, prompts_of(20)))
    assert ours <= 2 * naive + FLOOR


def has_layer_types():
    """Whether this release has cache layers for recurrent states; before, each model brought a cache of its own."""
    return hasattr(cache_utils, "LinearAttentionLayer")


def test_deepseek_is_never_served_the_tail_alone():
    """Its attention rebuilds K after the cache: driven over a shared prefix it must raise, not answer."""
    model = tiny("deepseek_v3")
    if why_not(model) is None:
        pytest.skip("this release of transformers keeps DeepSeek's K as attention reads it")
    with pytest.raises(SharingError, match="attention"):
        drive(SharedPrefixRunner(model), prompts_of(20))


def test_last_rung_reads_the_whole_text_again(monkeypatch):
    """A model whose cache cannot be copied is served all the same, and rightly."""

    def refuse(*_):
        raise NotImplementedError("this cache cannot be copied")

    model = tiny("bloom")
    monkeypatch.setattr(ExpandedCacheRunner, "add", refuse)
    engine = runner_for(model)
    assert isinstance(engine, RecomputeRunner)
    ours, naive = errors(model, drive(engine, prompts_of(9)))
    assert ours <= 2 * naive + FLOOR


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_logits_are_no_objection(dtype):
    """A model whose logits are all equal has no range to measure an error by: no error is no objection."""
    model = tiny("llama", dtype)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert why_not(model) is None
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    assert "comes out different" in why_not(copy.deepcopy(model))


def tail_alone(out_a, lse_a, out_b, lse_b):
    return out_a.float()


def halves(out_a, lse_a, out_b, lse_b):
    return (out_a.float() + out_b.float()) / 2


@pytest.mark.parametrize("name", ["llama", "gemma2", "cohere2", "gpt_oss"])
def test_broken_merge_in_bfloat16_is_refused(name, monkeypatch):
    """The handshake's wider bound for coarse rounding still refuses the tail alone."""
    monkeypatch.setattr(attention, "merge", tail_alone)
    assert "comes out different" in why_not(tiny(name, torch.bfloat16))


@pytest.mark.parametrize("broken", [tail_alone, halves])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_broken_merge_is_caught(name, broken, monkeypatch):
    """The twin: with a wrong merge the comparison fails and the handshake refuses, so the cache matters to both."""
    monkeypatch.setattr(attention, "merge", broken)
    model = tiny(name)
    ours, naive = errors(model, drive(SharedPrefixRunner(model), prompts_of(40)))
    assert ours > 100 * naive
    assert "comes out different" in why_not(model)
    assert isinstance(runner_for(model), ExpandedCacheRunner)


def test_window_off_by_one_is_caught(monkeypatch):
    """The twin of the windows: one token more in sight must fail the comparison."""
    right = visibility._visible
    monkeypatch.setattr(visibility, "_visible", lambda key, at, w: right(key, at, None if w is None else w + 1))
    model = tiny("mistral", sliding_window=3)
    ours, naive = errors(model, drive(SharedPrefixRunner(model), prompts_of(1), steps=15))
    assert ours > 100 * naive
