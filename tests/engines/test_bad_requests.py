"""Bad input: rule, value and remedy before anything starts, and nothing half-written where something fails later."""

from __future__ import annotations

import pytest
import torch
from plain import Letters, write
from tiny import tiny
from transformers import AutoConfig, AutoModelForSeq2SeqLM, LlamaModel, LogitsProcessor, LogitsProcessorList

from fastsample.engines.base import Request
from fastsample.engines.local.engine import LocalEngine


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ()}, "prompt must have at least one token, got none"),
        ({"prompt": (1,) * 2048}, "context of 2048 tokens, got 2048; shorten it"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, r"min_new_tokens must be in \[0, max_new_tokens = 8\], got 9"),
        ({"stop": "end"}, r"stop must be a tuple of strings, got the string 'end'; write \('end',\)"),
        ({"stop": ("",)}, "stop strings must not be empty"),
        ({"temperature": -1.0}, "temperature must be >= 0, got -1.0; 0 takes the argmax"),
        ({"temperature": float("nan")}, "temperature must be >= 0, got nan"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"min_p": 2.0}, r"min_p must be in \[0, 1\], got 2.0"),
        ({"top_k": -1}, "top_k must be >= 0, got -1"),
        ({"seed": 2**64}, "seed must fit in 64 bits"),
    ],
)
def test_refused_requests(model, changes, message):
    """A refused request names the rule, the value and the remedy, and queues none of its neighbours."""
    generator = LocalEngine(model, Letters())
    with pytest.raises((ValueError, TypeError), match=message):
        generator.submit([Request((1, 2)), Request(**{"prompt": (1, 2), **changes})])
    assert generator.is_idle


def test_stop_strings_need_a_tokenizer(model):
    """Without a tokenizer there is no text to look for them in."""
    with pytest.raises(ValueError, match="stop strings need the tokenizer"):
        LocalEngine(model, None).submit([Request((1,), stop=("x",))])


def test_refused_models(model):
    """An encoder-decoder, a headless model, parts on several devices, and something that is no model."""
    config = AutoConfig.for_model("t5", d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=50)
    with pytest.raises(ValueError, match="decoder-only, got the encoder-decoder T5"):
        LocalEngine(AutoModelForSeq2SeqLM.from_config(config), None)
    with pytest.raises(ValueError, match="language-model head, got LlamaModel; load it with AutoModelForCausalLM"):
        LocalEngine(LlamaModel(model.config), None)
    spread = tiny("llama")
    spread.model.norm.to("meta")
    with pytest.raises(ValueError, match="one device, got cpu, meta; load it without device_map"):
        LocalEngine(spread, None)
    with pytest.raises(TypeError, match="transformers causal language model, got str"):
        LocalEngine("gpt2", None)
    for name in ("slots", "prefill_block"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            LocalEngine(model, None, **{name: 0})


def test_the_context_ends_a_sample(model):
    """Where the model's positions end, the sample ends with finish "length"."""
    generator = LocalEngine(model, None)
    generator.context = 40
    (s,) = generator.submit([Request((5,) * 33, max_new_tokens=100, eos=())])
    generator.run()
    assert (s.finish, len(s.tokens)) == ("length", 7)


class Poison(LogitsProcessor):
    """Turns the row into NaN once the text has reached a length."""

    def __init__(self, at):
        self.at = at

    def __call__(self, input_ids, scores):
        return scores * float("nan") if input_ids.shape[1] >= self.at else scores


@pytest.mark.parametrize("at", [2, 6])
def test_a_row_without_a_valid_logit(model, at):
    """The error names it, no token of the step is kept, and without that sample the others go on as if alone."""
    generator = LocalEngine(model, None)
    good = [Request((5, 6), stream=i, max_new_tokens=9) for i in range(3)]
    poisoned = Request((5, 6), stream=3, max_new_tokens=9, logits_processor=LogitsProcessorList([Poison(at)]))
    samples = generator.submit([*good[:2], poisoned, good[2]])
    with pytest.raises(ValueError, match="holds a NaN"):
        generator.run()
    assert len({len(s.tokens) for s in samples if s.finish is None}) == 1
    with pytest.raises(ValueError, match="holds a NaN"):
        generator.step()
    generator.cancel([samples[2]])
    generator.run()
    for s in (samples[0], samples[1], samples[3]):
        assert s.tokens == write(model, s.request)


@pytest.mark.parametrize("where", ["prefill", "add", "step"])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] can't allocate memory: you tried"),
                                   torch.OutOfMemoryError("CUDA out of memory")])  # fmt: skip
def test_out_of_memory_says_the_plan(model, where, error, monkeypatch):
    """The message has the plan's numbers and the N that would fit; the samples wait or go on when asked again."""
    generator = LocalEngine(model, None, slots=3)
    samples = generator.submit([Request((5, 6, 7), stream=i, max_new_tokens=6) for i in range(3)])

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(generator.runner, where, fail)
        with pytest.raises(
            MemoryError, match=r"3 samples of up to 6 tokens over a prompt of 3 take .* would fit; lower"
        ):
            generator.step()
    generator.run()
    for s in samples:
        assert s.tokens == write(model, s.request)


def test_other_errors_pass_unchanged(model, monkeypatch):
    """Only a lack of memory is explained."""
    generator = LocalEngine(model, None)
    generator.submit([Request((5, 6, 7))])

    def fail(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(generator.runner, "step", fail)
    with pytest.raises(RuntimeError, match=r"^shapes do not match$"):
        generator.step()
