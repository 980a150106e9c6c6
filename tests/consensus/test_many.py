"""Many questions: what stays in memory, what the judge costs, and a real model."""

from __future__ import annotations

import gc
import random
import weakref
from time import process_time

import pytest

from fastsample import consensus
from fastsample.inquiry import Inquiry, Settings
from fastsample.replay import StoredGenerator, replay
from fastsample.results import Written
from fastsample.rules import rule_of


def stored(questions, samples, seed=1):
    """Made-up samples: 70 % say "1", the rest one of nine others, 5 to 60 tokens long."""
    rng = random.Random(seed)
    return [
        {
            n: Written(
                n, 1.0, n, n, "", "1" if rng.random() < 0.7 else str(rng.randrange(9)), rng.randint(5, 60), "eos"
            )
            for n in range(samples)
        }
        for _ in range(questions)
    ]


def test_memory_does_not_grow_with_finished_questions(monkeypatch):
    """Of 300 questions no more than the batch has rows for are alive at any time, their samples included."""
    alive: weakref.WeakSet[Inquiry] = weakref.WeakSet()

    class Counted(Inquiry):
        def __init__(self, *args):
            super().__init__(*args)
            alive.add(self)

    monkeypatch.setattr(consensus, "Inquiry", Counted)
    settings = Settings((1.0,), 20, rule_of("ahead"))
    most = 0
    for place, _ in enumerate(replay(stored(300, 20), settings, settings.rule, slots=16)):
        if place % 60 == 59:
            gc.collect()
            most = max(most, len(alive))
    assert 2 <= most <= 17


def test_the_judge_costs_little():
    """Votes, scheduling and bookkeeping of 40 samples a question: under 1 ms of processor a sample; a model's step of
    64 rows takes 100 to 300 ms and finishes one to three samples."""
    settings = Settings((1.0,), 40, rule_of("beta"))
    samples = stored(100, 40)
    for rule in ("majority", "beta", "decided"):
        start = process_time()
        drawn = sum(len(r.samples) for _, r in replay(samples, settings, rule_of(rule)))
        assert (process_time() - start) / drawn < 1e-3


@pytest.mark.parametrize("rule", ["decided", "beta", "ahead:k=2", "certified", "window", "two-stage:first=3"])
def test_every_question_comes_back_once_under_every_rule(rule):
    """No schedule forgets a question, hangs, or leaves a row in the batch; Decided keeps every answer."""
    samples, settings = stored(40, 24, seed=2), Settings((1.0,), 24)
    generator = StoredGenerator(samples, slots=7)
    results = dict(replay(samples, settings, rule_of(rule), generator=generator))
    assert sorted(results) == list(range(40))
    assert not generator.running
    assert not generator.waiting
    full = dict(replay(samples, settings, rule_of("majority")))
    assert sum(r.tokens for r in results.values()) <= sum(r.tokens for r in full.values())
    if rule == "decided":
        assert {n: r.answer for n, r in results.items()} == {n: r.answer for n, r in full.items()}


def test_idle_slots_at_the_end_are_lent():
    """Votes that never agree, 10 tokens each: one question alone goes in waves, the last two of a run fill it."""
    scattered = {n: Written(n, 1.0, n, n, "", str(n), 10, "eos") for n in range(32)}
    steps = []
    for questions in (1, 2):
        generator = StoredGenerator([scattered] * questions, slots=64)
        settings = Settings((1.0,), 32, rule_of("ahead"))
        results = dict(replay([scattered] * questions, settings, settings.rule, generator=generator))
        assert all(r.tokens == 320 for r in results.values())
        steps.append(generator.steps)
    assert steps[0] > 5 * 9
    assert steps[1] == 9


@pytest.mark.model
@pytest.mark.slow
def test_a_real_model(embedded):
    """SmolLM2 votes on a product: waves under Decided elect the full vote's answer with fewer tokens, and a sample
    written alone is the same."""
    lm, tokenizer = embedded
    settings = Settings((0.0, 0.4, 0.8), 4, max_new_tokens=24)
    question = "Solve the following multiplication: 4 * 1. Give only the result as your final answer."
    kwargs = {"temperatures": settings.temperatures, "samples": 4, "max_new_tokens": 24}
    full = consensus.solve(lm, tokenizer, question, **kwargs)
    early = consensus.solve(lm, tokenizer, question, rule="decided", together=False, **kwargs)
    assert early.answer == full.answer == "4"
    assert early.tokens < full.tokens
    alone = consensus.repeat(lm, tokenizer, question, 5, settings=settings)
    assert alone.text == full.samples[5].text
    assert alone.mean_logprob == pytest.approx(full.samples[5].mean_logprob, abs=1e-3)
