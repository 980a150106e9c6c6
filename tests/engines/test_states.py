"""Hidden states at a text's end: those of the model alone, by every runner, however the text ends."""

from __future__ import annotations

import bigram
import pytest
import torch
from tiny import tiny

from fastsample.engines.base import Request
from fastsample.engines.local.engine import LocalEngine
from fastsample.engines.local.runners import ExpandedCacheRunner, RecomputeRunner, SharedPrefixRunner
from fastsample.models.digest import digest_of
from fastsample.models.forward import Forward
from fastsample.models.states import layers_of, states_behind

RUNNERS = (SharedPrefixRunner, ExpandedCacheRunner, RecomputeRunner)


def alone(model, ids, layer):
    """What transformers gives for the last of these tokens, [hidden]."""
    with torch.inference_mode():
        out = model(input_ids=torch.tensor([list(ids)]), output_hidden_states=True, use_cache=False)
    return out.hidden_states[layer][0, -1]


def requests(layer, **more):
    """Two prompts, three temperatures, lengths of their own."""
    return [
        Request((5, 9, 11, 4 + k % 2), temperature=0.5 + k, stream=k, max_new_tokens=3 + k, eos=(), layer=layer, **more)
        for k in range(3)
    ]


@pytest.mark.parametrize("kind", RUNNERS)
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3_text", "gpt2", "gpt_oss"])
def test_a_state_is_the_model_s_own(name, kind):
    """Of the last token of each sample, though samples end at different steps; and none where none is asked for."""
    model = tiny(name)
    engine = LocalEngine(model, None, slots=2, runner=kind(model))
    samples = engine.submit([*requests(1), Request((5, 9), max_new_tokens=2, eos=())])
    engine.run()
    for s in samples[:3]:
        want = alone(model, s.request.prompt + tuple(s.tokens), 1)
        assert (s.state - want).abs().max() <= 2e-4 * want.abs().max()
        assert (alone(model, s.request.prompt + tuple(s.tokens[:-1]), 1) - want).abs().max() > 0.01
    assert samples[3].state is None


def test_a_state_costs_one_step_at_most():
    """A text that is parked takes the step that it takes anyway; another one takes one more than without."""
    model = tiny("llama")
    steps = []
    for more in ({"layer": None}, {"layer": 1}, {"layer": None, "park": True}, {"layer": 1, "park": True}):
        engine = LocalEngine(model, None)
        engine.submit([Request((5, 9), max_new_tokens=4, eos=(), **more)])
        engine.run()
        steps.append(engine.steps)
    assert steps == [3, 4, 4, 4]


def test_the_tokens_are_the_same_with_and_without():
    """To ask for a state changes nothing else."""
    model = tiny("llama")
    texts = []
    for layer in (None, 2):
        engine = LocalEngine(model, None, prepack=True)  # a batch of one row rounds as others do
        samples = engine.submit(requests(layer))
        engine.run()
        texts.append([(s.tokens, s.stats, s.finish) for s in samples])
    assert texts[0] == texts[1]


def test_the_eos_is_not_read_into_the_state():
    """One-hot states of a bigram model: the last token that is no EOS; none where EOS is all that was drawn."""
    tokenizer = bigram.bigram_tokenizer()
    model = bigram.bigram_model(tokenizer)
    engine = LocalEngine(model, tokenizer)
    prompt = tuple(tokenizer("x<|assistant|>", add_special_tokens=False)["input_ids"])
    end = tuple(tokenizer("4", add_special_tokens=False)["input_ids"])
    text, empty = engine.submit([Request(prompt, layer=1, stream=1), Request(end, layer=1)])
    engine.run()
    assert (text.finish, empty.finish, len(empty.tokens)) == ("eos", "eos", 1)
    assert int(text.state.argmax()) == text.tokens[-2]
    assert empty.state is None


def test_a_layer_that_there_is_not_is_refused():
    """Before anything is queued."""
    engine = LocalEngine(tiny("llama"), None)
    for layer in (0, 3):
        with pytest.raises(
            ValueError, match=rf"layer must be in \[1, 2\], the decoder layers of the model, got {layer}"
        ):
            engine.submit([Request((5,), layer=layer)])
    assert engine.is_idle


def test_states_survive_a_renewed_twin():
    """The model gets a hook in the middle: its copy is made anew, and is still watched."""
    model = tiny("llama")
    engine = LocalEngine(model, None)
    for changed in (False, True):
        if changed:
            model.new_attribute = 1
        (s,) = engine.submit([Request((5, 9, 7), max_new_tokens=2, eos=(), layer=1)])
        engine.run()
        want = alone(model, s.request.prompt + tuple(s.tokens), 1)
        assert (s.state - want).abs().max() <= 2e-4 * want.abs().max()


def test_texts_that_are_read_again():
    """Of texts of three lengths behind one prompt: every token's state and log-probability."""
    model = tiny("llama")
    forward = Forward(model)
    forward.watch(1)
    texts = [(5, 6, 7), (8,), (9, 10, 11, 12)]
    for text, (states, logprobs) in zip(texts, states_behind(forward, forward.prefill([4, 3], 512), texts)):
        for n in range(len(text)):
            want = alone(model, (4, 3, *text[: n + 1]), 1)
            assert (states[1][n] - want).abs().max() <= 2e-4 * want.abs().max()
        with torch.inference_mode():
            row = model(input_ids=torch.tensor([[4, 3, *text]])).logits[0].log_softmax(-1)
        assert logprobs.tolist() == pytest.approx([float(row[1 + n, t]) for n, t in enumerate(text)], abs=1e-4)


def test_a_digest_tells_models_apart():
    """Other weights in the first or the read layer are another model; another dtype of the same is not."""
    model, other = tiny("llama"), tiny("llama", seed=1)
    assert digest_of(model) == digest_of(tiny("llama")) != digest_of(other)
    rounded = tiny("llama").bfloat16()
    assert digest_of(rounded) == digest_of(model)
    with torch.no_grad():
        next(layers_of(model)[1].parameters()).add_(0.5)
    assert digest_of(model) != digest_of(rounded)
    assert digest_of(model, 1) == digest_of(rounded, 1)
