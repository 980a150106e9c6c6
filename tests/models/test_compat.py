"""What differs between releases of transformers, found by features: each kind of interface, also those to come."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny import tiny

from fastsample.models import compat, loops
from fastsample.models.forward import Forward
from fastsample.models.twin import Twin


class Model:
    """Anything with a forward pass."""

    def __init__(self, forward):
        self.forward = forward

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)


def of_5_0(input_ids, past_key_values=None, position_ids=None, use_cache=None, logits_to_keep=0, **kwargs):
    return SimpleNamespace(logits=torch.zeros(1, 1, 5), past_key_values=past_key_values, kwargs=kwargs)


def of_mamba(input_ids, cache_params=None, use_cache=None, return_dict=None):
    return SimpleNamespace(logits=torch.zeros(1, 1, 5), cache_params=cache_params)


def of_5_24(input_ids, position_ids=None, cache=None, use_cache=None, logits_to_keep=0, **kwargs):
    return SimpleNamespace(logits=torch.zeros(1, 1, 5), cache=cache)


def of_another_time(input_ids, memory=None, **kwargs):
    return SimpleNamespace(logits=torch.zeros(1, 1, 5), memory=memory)


@pytest.mark.parametrize(
    ("forward", "cache", "takes_positions", "is_recurrent", "options"),
    [
        (of_5_0, "past_key_values", True, False, {"use_cache", "return_dict", "logits_to_keep"}),
        (of_mamba, "cache_params", False, True, {"use_cache", "return_dict"}),
        (of_5_24, "cache", True, False, {"use_cache", "return_dict", "logits_to_keep"}),
    ],
)
def test_signatures(forward, cache, takes_positions, is_recurrent, options):
    """The name of the cache, positions and the last position's logits, by the signature; and the call works."""
    model = Model(forward)
    found = compat.Signature.of(model)
    assert (found.cache, found.takes_positions, found.is_recurrent) == (cache, takes_positions, is_recurrent)
    assert set(found.options) == options
    given = object()
    assert found.call(model, torch.tensor([[1]]), given, torch.tensor([[0]]))[1] is given


def test_a_cache_by_another_name_is_a_sentence():
    """A release that renames it again is told apart from one that works."""
    with pytest.raises(compat.UnknownModelError, match="Model takes its cache by a name that"):
        compat.Signature.of(Model(of_another_time))


@pytest.mark.parametrize(
    ("returned", "sentence"), [(None, "gives back no cache"), (object(), "gives back another cache than")]
)
def test_another_cache_that_comes_back_is_a_sentence(returned, sentence, monkeypatch):
    """A model that makes a cache of its own and ignores the one it was given would read the tail alone."""
    model = tiny("llama")
    forward = Forward(model)
    call = compat.Signature.call
    monkeypatch.setattr(compat.Signature, "call", lambda *args, **named: (call(*args, **named)[0], returned))
    with pytest.raises(compat.UnknownModelError, match=f"LlamaForCausalLM {sentence}"):
        forward(torch.tensor([[1, 2]]), compat.plain_cache(model))


def test_layers_by_what_they_do():
    """K/V of full and of sliding attention, nothing at all, and what cannot share: states, indexers, packed K/V."""
    kinds = compat.plain_cache(tiny("gemma2")).layers
    assert {compat.window_of(layer) for layer in kinds} == {None, 12}
    assert all(map(compat.is_plain_attention, kinds))
    empty = compat._EmptyLayer()
    assert compat.holds_nothing(compat.EmptyLayer())
    assert compat.holds_nothing(empty)
    for name in ("get_seq_length", "get_max_length", "get_max_cache_shape", "reset", "crop"):
        assert getattr(empty, name)() in (0, -1, None)
    for odd in ("conv_states", "recurrent_states", "update_indexer", "_quantize"):
        layer = SimpleNamespace(keys=None, get_mask_sizes=len, **{odd: 1})
        assert not compat.is_plain_attention(layer)


def test_number_of_queries_in_both_forms():
    """A number today, the tokens' positions in 5.0."""
    assert compat.number_of_queries(3) == compat.number_of_queries(torch.arange(3)) == 3


def test_a_config_that_does_not_take_the_attention_is_a_sentence():
    """Set and read back: a config that swallows the name would run another attention over our tails."""

    class Stubborn:
        _attn_implementation = property(lambda self: "eager", lambda self, name: None)

    with pytest.raises(compat.UnknownModelError, match="Stubborn does not take another attention implementation"):
        compat.set_attention(Stubborn(), "shared_prefix")


def test_soft_capping_is_left_out_where_the_model_s_own_attention_leaves_it_out():
    """sdpa knows none; eager does it; what is not registered is taken to do it."""
    for name, drops in (("sdpa", True), ("eager", False), ("no such attention", False)):
        assert compat.drops_softcap(SimpleNamespace(_attn_implementation=name)) is drops
    model = tiny("gemma2")
    model.config._attn_implementation = "sdpa"
    assert Twin(model).drops_softcap


def test_what_generate_hands_over():
    """The mask, every cache by its name or its type, and what is left for the caller to refuse."""
    cache = compat.plain_cache(tiny("llama"))
    given = {"attention_mask": 1, "cache": cache, "past_key_values": cache, "future_name": cache, "position_ids": 2,
             "use_cache": True, "inputs_embeds": 3, "nothing": None}  # fmt: skip
    mask, caches, left = compat.split_arguments(given)
    assert (mask, caches, left) == (1, [cache] * 3, {"inputs_embeds": 3})
    assert not compat.is_filled(cache)


def test_every_private_name_is_still_there():
    """A rename would pass in silence; this fails on the first release that does it."""
    assert loops.unknown_internals() == []


def test_a_renamed_internal_is_told(monkeypatch):
    """The twin of the test above."""
    monkeypatch.setattr(loops, "LOOPS", {"sample": "_no_such_method"})
    assert "transformers has no _no_such_method any more" in loops.unknown_internals()[0]
