"""The generator: its tokens against the plain path, and who joins and leaves the batch when."""

from __future__ import annotations

import random

import pytest
import torch
from plain import PROMPTS, Letters, requests, write
from tiny import VOCAB, tiny
from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from fastsample.engines.base import Request
from fastsample.engines.local.engine import LocalEngine
from fastsample.engines.local.runners import ExpandedCacheRunner, RecomputeRunner, SharedPrefixRunner

ENGINES = [SharedPrefixRunner, ExpandedCacheRunner, RecomputeRunner]


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("slots", [1, 3, 64])
def test_tokens_equal_the_plain_path(model, kind, slots):
    """The same tokens as one sample at a time without any cache, for every engine and any number of slots."""
    generator = LocalEngine(model, None, slots=slots, runner=kind(model))
    samples = generator.submit(requests())
    finished = generator.run()
    assert sorted(map(id, finished)) == sorted(map(id, samples))
    for s in samples:
        assert s.tokens == write(model, s.request)
        assert s.finish == ("eos" if s.tokens[-1] == 2 else "length")
    assert generator.is_idle


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss", "mistral", "mamba"])
def test_tokens_equal_the_plain_path_elsewhere(name):
    """Soft-capping, sinks, windows and a recurrent state: the same through refill and compaction."""
    model = tiny(name)
    generator = LocalEngine(model, None, slots=4)
    samples = generator.submit(requests(6))
    generator.run()
    for s in samples:
        assert s.tokens == write(model, s.request)


@pytest.mark.parametrize("seed", range(4))
def test_random_submit_and_cancel(model, seed):
    """Samples come and go at random; each that was not cancelled has the text that it has alone."""
    choose = random.Random(seed)
    generator = LocalEngine(model, None, slots=5)
    samples, to_come = [], requests(14, max_new_tokens=15)
    while to_come or not generator.is_idle:
        if to_come and choose.random() < 0.5:
            samples += generator.submit([to_come.pop() for _ in range(min(len(to_come), choose.randint(1, 4)))])
        if choose.random() < 0.2 and (generator.running or generator.waiting):
            victim = choose.choice([*generator.running, *generator.waiting])
            generator.cancel([victim])
            assert victim not in generator.running
            assert victim not in generator.waiting
        generator.step()
        assert len(generator.running) <= 5
    cancelled = [s for s in samples if s.finish == "cancelled"]
    assert 0 < len(cancelled) < 14
    for s in samples:
        want = write(model, s.request)
        assert s.tokens == (want[: len(s.tokens)] if s in cancelled else want)


def test_one_prefill_for_all_samples_of_a_prompt(model):
    """Equal prompts are read once, also when their samples come later; steps are forward passes, not tokens."""
    generator = LocalEngine(model, None, slots=4)
    generator.submit([Request(PROMPTS[0], stream=i, max_new_tokens=5, eos=()) for i in range(8)])
    generator.run()
    assert generator.prefill_tokens == len(PROMPTS[0])
    assert generator.steps == 8  # two waves; the first token of each comes from the prefill
    generator.submit([Request(PROMPTS[0], stream=9, max_new_tokens=5)])
    generator.run()
    assert generator.prefill_tokens == len(PROMPTS[0])
    generator.submit([Request(PROMPTS[1])])
    generator.run()
    assert generator.prefill_tokens == len(PROMPTS[0]) + len(PROMPTS[1])


def test_long_prompts_are_read_in_blocks(model):
    """The blocks' size changes no token, and progress is told before the first and after each of several blocks."""
    told = []
    prompt = tuple(3 + i % 90 for i in range(100))
    whole = LocalEngine(model, None, prefill_block=1000)
    blocks = LocalEngine(model, None, prefill_block=32, on_prefill=lambda *args: told.append(args))
    (a,), (b,) = (g.submit([Request(prompt, max_new_tokens=12)]) for g in (whole, blocks))
    whole.run(), blocks.run()
    assert a.tokens == b.tokens
    assert told == [(prompt, read, 100) for read in (0, 32, 64, 96, 100)]
    blocks.submit([Request(prompt[:32], max_new_tokens=1)])
    blocks.run()
    assert told[5:] == [(prompt[:32], 32, 32)]


def test_logits_processors_of_each_request(model):
    """Each sample has its own processors, which see its own text; the others are untouched by them."""
    lists = [
        None,
        LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.8)]),
        LogitsProcessorList([NoRepeatNGramLogitsProcessor(2), RepetitionPenaltyLogitsProcessor(0.4)]),
    ]
    generator = LocalEngine(model, None)
    samples = generator.submit(
        [Request(PROMPTS[0], stream=7, max_new_tokens=25, min_new_tokens=20, logits_processor=p) for p in lists]
    )
    generator.run()
    for s in samples:
        assert s.tokens == write(model, s.request)
    assert len({tuple(s.tokens) for s in samples}) == 3


def test_minimum_length_and_eos_sets(model):
    """EOS is forbidden below the minimum; a request's own EOS set replaces the model's, and () never ends."""
    ends = tuple(range(3, 60))
    generator = LocalEngine(model, None)
    asked = [Request(PROMPTS[0], stream=i, max_new_tokens=30, min_new_tokens=6, eos=ends) for i in range(6)]
    samples = generator.submit([*asked, Request(PROMPTS[0], max_new_tokens=30, eos=())])
    generator.run()
    for s in samples[:-1]:
        assert s.finish == "eos"
        assert len(s.tokens) > 6
        assert s.tokens[-1] in ends
        assert not set(s.tokens[:6]) & set(ends)
        assert s.tokens == write(model, s.request, eos=ends)
    assert samples[-1].finish == "length"
    assert len(samples[-1].tokens) == 30


def test_statistics_of_each_token(model):
    """logprobs under what the token was drawn from; raw, entropy and self-certainty under the model's own row."""
    generator = LocalEngine(model, None)
    penalty = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.5)])
    for s in generator.submit(
        [
            Request(PROMPTS[0], temperature=0.6, max_new_tokens=8, eos=()),
            Request(PROMPTS[1], temperature=1.4, top_k=10, max_new_tokens=8, eos=(), logits_processor=penalty),
        ]
    ):
        generator.run()
        for i, token in enumerate(s.tokens):
            text = torch.tensor([[*s.request.prompt, *s.tokens[:i]]])
            raw = model(input_ids=text).logits[0, -1].detach().double()
            drawn = raw[None].clone()
            if s.request.logits_processor:
                drawn = s.request.logits_processor(text, drawn)
            drawn = drawn[0] / s.request.temperature
            if s.request.top_k:
                drawn[drawn < drawn.topk(s.request.top_k).values[-1]] = -torch.inf
            p = raw.log_softmax(0)
            assert s.logprobs[i] == pytest.approx(float(drawn.log_softmax(0)[token]), abs=2e-5)
            assert s.stats[i].raw_logprob == pytest.approx(float(p[token]), abs=2e-5)
            assert s.stats[i].entropy == pytest.approx(float(-(p.exp() * p).sum()), abs=2e-5)
            certainty = float(raw.logsumexp(0) - raw.mean() - torch.log(torch.tensor(VOCAB, dtype=torch.float64)))
            assert s.stats[i].self_certainty == pytest.approx(certainty, abs=2e-5)


def test_prefilled_once_in_any_order_of_finishing(model):
    """Rows that finish early leave at once: later steps have fewer rows."""
    generator = LocalEngine(model, None)
    generator.submit([Request(PROMPTS[1], stream=i, max_new_tokens=2 + i, eos=()) for i in range(6)])
    sizes = []
    while not generator.is_idle:
        generator.step()
        sizes.append(len(generator.running))
    assert sizes == [5, 4, 3, 2, 1, 0]


def test_prepacked_weights_write_the_same_text(model):
    """Packed linear layers change rounding only, and the model has its own layers back afterwards."""
    generator = LocalEngine(model, Letters(), prepack=True)
    samples = generator.submit(requests(4))
    generator.run()
    for s in samples:
        assert s.tokens == write(model, s.request)
    assert all("forward" not in vars(m) for m in model.modules())


def test_requests_without_a_stream_number_themselves(model):
    """Four equal requests are four samples: the streams are 0, 1, 2, 3, and go on from there."""
    engine = LocalEngine(model, None)
    asked = [Request(PROMPTS[0], temperature=1.3, seed=5, max_new_tokens=8, eos=())] * 4
    samples = engine.submit(asked) + engine.submit([Request(PROMPTS[0], stream=99), asked[0]])
    engine.run()
    assert [s.request.stream for s in samples] == [0, 1, 2, 3, 99, 5]
    assert len({tuple(s.tokens) for s in samples}) == 6
    for s in samples:
        assert s.tokens == write(model, s.request, eos=s.request.eos or (2,))
    with pytest.raises(ValueError, match="top_p"):
        engine.submit([asked[0], Request(PROMPTS[0], top_p=2.0)])
    assert engine.submit(asked[:1])[0].request.stream == 6  # a refused call has not counted
