"""Grammars: a sample has the tokens that its matcher allows, in any batch, past failures and interrupts too."""

import json
from typing import ClassVar

import pytest
import torch
from plain import write
from tiny import tiny

import fastsample
from fastsample.engines.base import Request
from fastsample.engines.local.engine import LocalEngine
from fastsample.engines.local.runners import ExpandedCacheRunner, SharedPrefixRunner
from fastsample.engines.openai.wire import Dialect, check
from fastsample.sampling.edits import bits_of


class Climbing:
    """Allows what is larger than the token before by at most ten, modulo 40; as a matcher, and as a processor."""

    made: ClassVar[list] = []

    def __init__(self, fails_at=None, error=RuntimeError):
        self.last, self.count, self.fails_at, self.error = 3, 0, fails_at, error
        self.made.append(self)

    def allowed(self, vocab, last):
        i = torch.arange(vocab)
        return (i >= 3) & (i < 43) & ((i - last) % 40 >= 1) & ((i - last) % 40 <= 10)

    def accept_token(self, token):
        self.last, self.count = token, self.count + 1
        if self.count == self.fails_at:
            raise self.error("on purpose")
        return True

    def fill_next_token_bitmask(self, bitmask, index):
        bitmask[index] = bits_of(self.allowed(bitmask.shape[1] * 32, self.last))

    def processor(self, prompt):
        def process(ids, scores):
            last = 3 if ids.shape[1] == prompt else int(ids[0, -1])
            return scores.masked_fill(~self.allowed(scores.shape[1], last), -torch.inf)

        return process


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


def requests(**changes):
    return [
        Request((5, 6 + i % 2), temperature=(0.0, 0.9)[i % 2], seed=1, stream=i, max_new_tokens=6 + i, **changes)
        for i in range(6)
    ]


@pytest.mark.parametrize("kind", [SharedPrefixRunner, ExpandedCacheRunner])
@pytest.mark.parametrize("slots", [2, 64])
def test_tokens_are_those_of_a_processor(model, kind, slots):
    """A matcher and a processor that forbid the same draw the same, with the same statistics; others are untouched."""
    engine = LocalEngine(model, None, slots=slots, runner=kind(model))
    free, matched = engine.submit(requests()), engine.submit(requests(grammar=Climbing))
    processed = engine.submit(requests(logits_processor=Climbing().processor(2)))
    engine.run()
    assert [s.tokens for s in matched] == [s.tokens for s in processed] == [write(model, s.request) for s in processed]
    assert [s.tokens for s in free] == [write(model, s.request) for s in free]
    for a, b in zip(matched, processed):
        assert torch.allclose(torch.tensor(a.stats), torch.tensor(b.stats), atol=1e-4)


@pytest.mark.parametrize("fails_at", [1, 2, 4])
def test_interrupted_inside_the_matcher(model, fails_at):
    """Ctrl-C between a token that the matcher took and its note: it is made anew, and the text is the same."""
    whole, cut = LocalEngine(model, None), LocalEngine(model, None)
    expected = whole.submit(requests(grammar=Climbing))
    whole.run()
    makers = iter([Climbing(fails_at, KeyboardInterrupt)])
    samples = cut.submit(requests(grammar=lambda: next(makers, None) or Climbing()))
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    cut.run()
    assert [s.tokens for s in samples] == [s.tokens for s in expected]


def test_a_failing_matcher_ends_its_own_sample(model):
    """What it raised is told, a token that it does not take too; those beside it go on."""
    engine = LocalEngine(model, None)
    refusing = type("Refusing", (Climbing,), {"accept_token": lambda self, token: False})
    bad, worse, good = (
        engine.submit([Request((5, 6), seed=1, max_new_tokens=5, eos=(), grammar=g)])[0]
        for g in (lambda: Climbing(2), refusing, Climbing)
    )
    engine.run()
    assert (bad.finish, len(bad.tokens)) == ("failed", 2)
    assert bad.error == "the grammar failed: RuntimeError: on purpose"
    assert "the grammar failed: ValueError: it does not take token" in worse.error
    assert (good.finish, len(good.tokens)) == ("length", 5)


def test_generate_makes_a_matcher_for_each_sample(model):
    """Once each; penalties act on what is allowed, and raw log-probabilities are the model's own."""
    Climbing.made.clear()
    batch = fastsample.generate(
        model, None, [[5, 6]], n=3, grammar=Climbing, presence_penalty=0.5, max_new_tokens=5, eos=(), seed=2
    )
    assert len(Climbing.made) == 3
    ids, mask = batch.sequences()
    with torch.no_grad():
        logits = model(ids, attention_mask=mask.long()).logits[:, 1:-1].float()
    raw = logits.log_softmax(-1).gather(-1, batch.ids[..., None])[..., 0]
    assert (raw - batch.raw_logprobs).abs().max() < 1e-4
    for tokens in batch.ids.tolist():
        assert all(1 <= (b - a) % 40 <= 10 for a, b in zip([3, *tokens], tokens))


def test_bad_grammars(model):
    """What makes none, and an engine that cannot follow one."""
    with pytest.raises(TypeError, match="grammar must be a function that makes a matcher, got str"):
        fastsample.generate(model, None, [[5]], grammar="json")
    with pytest.raises(ValueError, match="a grammar runs in this process only"):
        check(Request((5,), grammar=Climbing), Dialect("vllm", "m", takes_ids=True))


@pytest.mark.slow
@pytest.mark.model
def test_xgrammar_with_the_embedded_model(embedded):
    """Every text is JSON of the schema, at any temperature; without the grammar none is."""
    xgrammar = pytest.importorskip("xgrammar", reason="xgrammar is not installed: pip install xgrammar")
    model, tokenizer = embedded
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "people": {"type": "integer"}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=model.config.vocab_size)
    compiled = xgrammar.GrammarCompiler(info).compile_json_schema(json.dumps(schema), any_whitespace=False)
    chat = [{"role": "user", "content": "Name a city and how many people live there."}]
    settings = dict(n=4, temperature=[0.0, 0.5, 1.0, 1.5], max_new_tokens=40, seed=3, progress=False)
    batch = fastsample.generate(model, tokenizer, [chat], grammar=lambda: xgrammar.GrammarMatcher(compiled), **settings)
    ended = [text for text, finish in zip(batch.texts, batch.finish) if finish == "eos"]
    assert len(ended) >= 3  # a number may be as long as it likes
    for text in ended:
        found = json.loads(text)
        assert found.keys() == {"city", "people"}
        assert found["city"] in ("Paris", "Rome")
        assert type(found["people"]) is int
    free = fastsample.generate(model, tokenizer, [chat], **settings | {"max_new_tokens": 4})
    assert not any(text.startswith("{") for text in free.texts)
