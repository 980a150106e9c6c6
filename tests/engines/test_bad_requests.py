"""Bad input: rule, value and remedy before anything starts, and nothing half-written where something fails later."""

from __future__ import annotations

import pytest
import torch
from plain import Letters, write
from tiny import OWN_CACHES, tiny
from transformers import AutoConfig, AutoModelForSeq2SeqLM, LlamaModel, LogitsProcessor, LogitsProcessorList

from fastsample.engines.base import Request
from fastsample.engines.local.engine import LocalEngine
from fastsample.engines.local.runners import ExpandedCacheRunner


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


class Broken(LogitsProcessor):
    """Raises once the text has reached a length."""

    def __init__(self, at):
        self.at = at

    def __call__(self, input_ids, scores):
        if input_ids.shape[1] >= self.at:
            raise KeyError("no such thing")
        return scores


@pytest.mark.parametrize("at", [2, 6])
@pytest.mark.parametrize(
    ("kind", "sentence"), [(Poison, "the row holds a NaN"), (Broken, "a logits processor failed: KeyError")]
)
def test_a_sample_that_cannot_go_on_fails_alone(model, at, kind, sentence):
    """It ends as failed with its reason and what it has, and the others go on as if alone."""
    generator = LocalEngine(model, None)
    good = [Request((5, 6), stream=i, max_new_tokens=9) for i in range(3)]
    bad = Request((5, 6), stream=3, max_new_tokens=9, logits_processor=LogitsProcessorList([kind(at)]))
    samples = generator.submit([*good[:2], bad, good[2]])
    finished = generator.run()
    assert sorted(map(id, finished)) == sorted(map(id, samples))
    assert samples[2].finish == "failed"
    assert sentence in samples[2].error
    assert len(samples[2].tokens) == len(samples[2].stats) == at - 2
    for s in (samples[0], samples[1], samples[3]):
        assert s.error is None
        assert s.tokens == write(model, s.request)


def test_a_model_of_nan_fails_every_sample():
    """Weights that are NaN: every sample fails with the reason, and the engine is idle."""
    broken = tiny("llama")
    engine = LocalEngine(broken, None)
    with torch.no_grad():
        broken.lm_head.weight.fill_(torch.nan)
    samples = engine.submit([Request((5, 6), stream=i) for i in range(3)])
    engine.run()
    assert {s.finish for s in samples} == {"failed"}
    assert engine.is_idle


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("text", "prompt must be token ids, got str; call the tokenizer"),
        (7, "prompt must be token ids, got int"),
        (["a"], "prompt must hold whole numbers, got 'a' at place 0"),
        ((1, 2.5), "got 2.5 at place 1"),
        ((1, True), "got True at place 1"),
        ((1, 101), r"token ids in \[0, 101\), got 101 at place 1"),
        ((-1,), "got -1 at place 0"),
    ],
)
def test_a_prompt_that_is_none_is_refused_and_nothing_is_left_behind(model, prompt, message):
    """It would otherwise fail in every step from then on, and block all others."""
    generator = LocalEngine(model, None)
    with pytest.raises((ValueError, TypeError), match=message):
        generator.submit([Request((1, 2)), Request(prompt)])
    assert generator.is_idle


def test_a_prompt_is_what_a_tokenizer_returns(model):
    """Lists, tensors and batches of one mean the same as a tuple."""
    generator = LocalEngine(model, None)
    prompts = ((5, 6), [5, 6], torch.tensor([5, 6]), torch.tensor([[5, 6]]), [[5, 6]])
    samples = generator.submit([Request(p, max_new_tokens=5, stream=0) for p in prompts])
    generator.run()
    assert {s.request.prompt for s in samples} == {(5, 6)}
    assert len({tuple(s.tokens) for s in samples}) == 1


def test_samples_that_ended_are_told_of_after_a_step_that_failed(model, monkeypatch):
    """A sample whose first token ends it, in a step whose forward pass fails, is returned by the next step."""
    generator = LocalEngine(model, None)
    short, long = generator.submit([Request((5, 6), max_new_tokens=1), Request((5, 6), max_new_tokens=4, eos=())])

    def fail(*_):
        raise RuntimeError("shapes do not match")

    with monkeypatch.context() as patch:
        patch.setattr(generator.runner, "step", fail)
        with pytest.raises(RuntimeError, match="shapes do not match"):
            generator.step()
    assert generator.run() == [short, long]


def change_in_place(trained):
    with torch.no_grad():
        for p in trained.parameters():
            p.add_(torch.randn_like(p) * 0.3)


def change_by_a_fused_optimizer(trained):
    for p in trained.parameters():
        p.grad = torch.randn_like(p)
    torch.optim.AdamW(trained.parameters(), lr=0.3, fused=True).step()


@pytest.mark.parametrize("change", [change_in_place, change_by_a_fused_optimizer])
@pytest.mark.parametrize("prepack", [False, True])
def test_weights_that_change_are_seen(prepack, change):
    """A training step between two runs: the stored prompt is read again, packed weights are packed again."""
    trained = tiny("llama")
    engine = LocalEngine(trained, None, prepack=prepack)
    request = Request((5, 6, 7), temperature=0.0, max_new_tokens=8, eos=())
    for _ in range(2):
        (s,) = engine.submit([request])
        engine.run()
        assert s.tokens == write(trained, s.request, eos=())
        change(trained)


@pytest.mark.parametrize("prepack", [False, True])
def test_refresh_sees_what_torch_does_not_count(prepack):
    """A write through `.data` leaves no trace that torch counts; after `refresh` prompts and packs are made again."""
    trained = tiny("llama")
    engine = LocalEngine(trained, None, prepack=prepack)
    request = Request((5, 6, 7), temperature=0.0, max_new_tokens=8, eos=())
    (held,) = engine.submit([request])
    engine.step()
    with pytest.raises(RuntimeError, match="refresh needs an engine that writes nothing, got 1 sample"):
        engine.refresh()
    engine.cancel([held])
    for p in trained.parameters():
        p.data.add_(torch.randn_like(p) * 0.3)
    engine.refresh()
    (s,) = engine.submit([request])
    engine.run()
    assert s.tokens == write(trained, s.request, eos=())


@pytest.mark.parametrize("name", sorted({"bloom", "mamba", "deepseek_v3", "mistral"} - OWN_CACHES))
def test_a_copied_cache_is_as_before_after_a_failed_step(name):
    """Half of its layers may have been reached: the same step again gives what it would have given."""
    model = tiny(name)
    runner, twin = ExpandedCacheRunner(model), ExpandedCacheRunner(model)
    tokens = torch.tensor([4, 5])
    for r in (runner, twin):
        r.add(r.prefill([5, 6, 7]), 2)
        r.step(tokens)
    hook = model.get_output_embeddings().register_forward_hook(lambda *_: (_ for _ in ()).throw(MemoryError("none")))
    with pytest.raises(MemoryError):
        runner.step(tokens)
    hook.remove()
    for _ in range(3):
        assert torch.equal(runner.step(tokens), twin.step(tokens))
    assert torch.equal(runner.step(tokens, [4, 4]), twin.step(tokens))
    assert torch.equal(runner.step(tokens, [4, 4]), twin.step(tokens, [4, 4]))  # its result was lost


def test_out_of_memory_with_nothing_left_to_write_stays_as_it_is(model, monkeypatch):
    """The last samples have ended, and their rows cannot be taken out: there is no plan to tell of."""
    engine = LocalEngine(model, None)
    (sample,) = engine.submit([Request((5, 6, 7), max_new_tokens=1)])

    def none(*_):
        raise MemoryError("none")

    with monkeypatch.context() as patch:
        patch.setattr(engine.runner, "keep", none)
        with pytest.raises(MemoryError, match=r"^none$"):
            engine.run()
    assert engine.step() == [sample]
    assert engine.is_idle


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
