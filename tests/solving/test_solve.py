"""One question over a real generator and tiny models whose answers can be worked out."""

from __future__ import annotations

import json
from functools import partial

import bigram
import pytest
import torch

from fastsample.answers.equivalence import canonical
from fastsample.engines.local.engine import LocalEngine
from fastsample.solving.solve import repeat, solve
from fastsample.strategies.plan import plan_of, stream_of
from fastsample.strategies.prompts import prompt_of
from fastsample.strategies.question import Settings
from fastsample.voting.ballots import Ballot
from fastsample.voting.registry import rule_of


def first_letter(text):
    return text[0] if text else None


def ask(lm, rule="majority", **kwargs):
    settings = {"temperatures": (0.0, 0.7, 1.0), "samples": 8, "extractor": first_letter, "max_new_tokens": 24}
    return solve(*lm, "2 + 2?", rule=rule, **(settings | kwargs))


def test_the_full_vote(seven):
    """Every sample of the plan is written, temperature 0 once, and the counts add up."""
    result = ask(seven)
    assert (result.answer, result.status, result.planned, result.counted) == ("4", "budget", 17, 17)
    assert [s.number for s in result.samples] == list(range(17))
    assert sum(result.votes["0"].values()) == 1
    assert sum(result.votes["1"].values()) == 8
    assert result.shares["0"] == {"4": 1.0}
    assert result.tokens == result.budget_tokens == sum(s.tokens for s in result.samples)
    assert (result.unparsable, result.cancelled, result.is_tie) == (0, 0, False)


def test_the_result_is_plain_json(seven):
    """Every field survives a round trip through JSON."""
    result = ask(seven, "beta")
    record = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert record["answer"] == result.answer
    counts = {"samples", "tokens", "budget_tokens", "steps", "rounds", "unparsable", "cancelled"}
    assert {"status", "votes", "shares", "is_tie", "seed", "reason", "rule"} | counts <= record.keys()
    assert {"text", "answer", "temperature", "tokens", "mean_logprob", "entropy", "stream"} <= record["samples"][
        0
    ].keys()


def test_statistics_are_the_model_s(seven):
    """Mean log-probability and entropy of a two-token sample, from the transition table: log 0.7 / 2 and so on."""
    sample = next(s for s in ask(seven).samples if s.answer == "4" and s.temperature == 1.0)
    assert sample.means.raw_logprob == pytest.approx(torch.tensor(0.7).log().item() / 2, abs=2e-4)
    entropy = -(0.7 * torch.tensor(0.7).log() + 0.3 * torch.tensor(0.3).log()).item()
    assert sample.means.entropy == pytest.approx(entropy / 2, abs=2e-3)


@pytest.mark.parametrize(
    "rule", ["beta", "ahead", "certified:delta=0.3", "decided", "window:size=3", "two-stage:first=3"]
)
@pytest.mark.parametrize("together", [True, False])
def test_length_decides_nothing(biased, rule, together):
    """Short "4" finishes long before "5"; yet every seed elects what drawing the samples one by one elects."""
    for seed in range(4):
        full = ask(biased, seed=seed, max_new_tokens=16)
        early = ask(biased, rule, seed=seed, max_new_tokens=16, together=together)
        judged = rule_of(rule)
        ballots = [Ballot(s.number, s.temperature, s.answer) for s in full.samples]
        plan = [s.temperature for s in full.samples]
        stop = judged.first_stop(ballots, plan) or len(plan)
        assert early.answer == judged.choose(ballots[:stop])[0]
        assert early.tokens <= full.tokens


def test_the_first_to_finish_would_have_lost(biased):
    """The twin: stopping at the first four equal answers to finish elects the short one, against the full vote."""
    full = ask(biased, temperatures=(1.0,), samples=40, max_new_tokens=16)
    by_length = sorted(full.samples, key=lambda s: s.tokens)
    assert {s.answer for s in by_length[:4]} == {"4"}
    assert full.answer == "5"
    assert ask(biased, "beta", temperatures=(1.0,), samples=40, max_new_tokens=16).answer == "5"


def test_an_early_exit_cancels_in_the_middle(biased):
    """Rows still being written leave with what they have: fewer tokens and steps than the full vote."""
    full, early = (ask(biased, rule, temperatures=(1.0,), samples=16, seed=1) for rule in ("majority", "ahead:k=1"))
    cancelled = [s for s in early.samples if s.finish == "cancelled"]
    assert early.status == "easy"
    assert early.cancelled == len(cancelled) > 0
    assert early.tokens < full.tokens
    assert early.steps < full.steps
    texts = {s.number: s.text for s in full.samples}
    assert all(texts[s.number].startswith(s.text) and s.answer is None for s in cancelled)


def test_any_sample_can_be_written_alone(biased):
    """(seed, stream) names a sample: alone, its text and tokens are those of the batch."""
    settings = Settings(temperatures=(0.0, 0.7, 1.0), samples=8, max_new_tokens=24, seed=3)
    result = ask(biased, seed=3)
    for number in (0, 1, 5, 16):
        alone = repeat(*biased, "2 + 2?", number, settings=settings, extractor=first_letter)
        batched = result.samples[number]
        assert (alone.text, alone.token_ids, alone.answer) == (batched.text, batched.token_ids, batched.answer)


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_slots_change_nothing_but_time(biased, slots):
    """However few rows fit the batch, texts and answer are the same."""
    one, other = ask(biased, "beta", together=False), ask(biased, "beta", together=False, slots=slots)
    assert one.answer == other.answer
    texts = {s.number: s.text for s in one.samples if s.is_counted}
    assert texts == {s.number: s.text for s in other.samples if s.number in texts}


def test_waves_start_only_what_the_rule_may_need(seven):
    """Ahead starts with three samples; all agree, so no fourth is ever written."""
    result = ask(seven, "ahead", temperatures=(0.0, 0.01, 0.02), together=False)
    assert (len(result.samples), result.rounds, result.status) == (3, 1, "easy")
    assert len(ask(seven, "ahead", temperatures=(0.0, 0.01, 0.02), together=True).samples) == 17


def test_two_stage_calls_a_question_hard(biased):
    """Temperatures that never agree spend the whole budget."""
    result = ask(biased, "two-stage", seed=1)
    assert result.status == "hard"
    assert result.counted == 17


def test_a_verifier_decides_what_the_vote_did_not(seven):
    """Best of N where the budget was spent; an early vote is left alone."""

    def likes_five(question, answer, text):
        assert question == "2 + 2?"
        return float(answer == "5")

    assert ask(seven, scorer=likes_five).answer == "5"
    easy = ask(seven, "ahead", temperatures=(0.0, 0.01, 0.02), scorer=likes_five)
    assert (easy.status, easy.answer) == ("easy", "4")
    assert easy.samples[0].score == 0.0


def test_unparsable_samples_are_spent_and_do_not_vote(seven):
    """An extractor that reads only "5": the others count as unparsable."""
    result = ask(seven, extractor=lambda text: "5" if text == "5" else None)
    fives = sum(s.answer == "5" for s in result.samples)
    assert result.answer == "5"
    assert result.unparsable == 17 - fives > 0
    nothing = ask(seven, "beta", extractor=lambda text: None)
    assert (nothing.answer, nothing.status, nothing.unparsable) == (None, "budget", 17)


def test_equal_answers_are_merged(seven):
    """0.5 and 1/2 are one answer."""
    result = ask(seven, extractor=lambda text: {"4": "1/2", "5": "0.5"}[text])
    assert result.votes["1"] == {"0.5": 8}
    assert canonical("1/2") == result.answer


def test_events_tell_the_whole_story(biased):
    """The pieces of every sample add up to its text, every start has an end, and the verdict comes last."""
    events, pieces = [], {}
    result = ask(biased, "ahead:k=2", seed=1, on_event=events.append)
    for event in events:
        if event.kind == "token":
            pieces[event.number] = pieces.get(event.number, "") + event.piece
    kinds = [e.kind for e in events]
    assert kinds[0] == "question"
    assert kinds[-1] == "verdict"
    assert events[-1].result == result
    assert kinds.count("start") == kinds.count("finished") + kinds.count("cancelled") == len(result.samples)
    for sample in result.samples:
        assert pieces.get(sample.number, "") == sample.text if sample.is_finished else True


def test_events_tell_how_much_of_a_long_prompt_is_read(seven, monkeypatch):
    """A prompt of three blocks: none of it, one, two, all, before the first word; a short one is told of at its end."""
    monkeypatch.setattr("fastsample.engines.local.engine.LocalEngine", partial(LocalEngine, prefill_block=100))
    for question, blocks in (("2 + 2?" + "x" * 200, 3), ("2 + 2?", 1)):
        events = []
        solve(*seven, question, temperatures=(0.0,), samples=1, max_new_tokens=4, on_event=events.append)
        kinds = [e.kind for e in events]
        told = [e.read for e in events if e.kind == "prompt"]
        total = len(events[0].strategy.prompt)
        assert told == ([0, 100, 200, total] if blocks == 3 else [total])
        assert max(n for n, kind in enumerate(kinds) if kind == "prompt") < kinds.index("token")


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"temperatures": ()}, "temperatures must name at least one"),
        ({"temperatures": (-1.0,)}, "finite number of at least 0, got -1"),
        ({"temperatures": (1.0, 1.0)}, "named twice"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"rule": "best"}, "no rule is called 'best'"),
        ({"extractor": "best"}, "no extractor is called 'best'"),
        ({"prompt_template": "Q:"}, "must contain {question}"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"slots": 0}, "slots must be at least 1"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(seven, settings, part):
    """Before anything is written."""
    with pytest.raises(ValueError, match=part.replace("{", "\\{")):
        ask(seven, **settings)


def test_what_a_callable_raises_reaches_the_caller(seven):
    """An extractor's or a verifier's own error, and a result of a wrong kind."""
    with pytest.raises(ZeroDivisionError):
        ask(seven, extractor=lambda text: 1 / 0)
    with pytest.raises(TypeError, match="an extractor returns text or None, got int"):
        ask(seven, extractor=lambda text: 4)
    with pytest.raises(ValueError, match="returned nan"):
        ask(seven, scorer=lambda q, a, t: float("nan"))


def test_prompts(seven):
    """Chat template, system, template and suffix are all in the prompt, in their order; braces of others stay."""
    tokenizer = seven[1]
    text = tokenizer.decode(prompt_of(tokenizer, "x {y}", system="S", template="Q: {question} \\boxed{}", suffix="!"))
    assert text.index("S") < text.index("Q: x {y} \\boxed{}!") < text.index(bigram.ASSISTANT)
    plain = bigram.bigram_tokenizer()
    plain.chat_template = None
    assert plain.decode(prompt_of(plain, "x")) == "x"
    with pytest.raises(ValueError, match="no chat template"):
        prompt_of(plain, "x", system="S")
    with pytest.raises(ValueError, match="question is empty"):
        prompt_of(plain, " \n")


def test_streams_and_plans():
    """A stream depends on prompt, temperature and k, is 63 bits, and never changes; a plan takes turns."""
    streams = {stream_of(p, t, k) for p in ((1,), (2,), (1, 2)) for t in (0.0, 0.4) for k in range(5)}
    assert len(streams) == 30
    assert all(0 <= s < 2**63 for s in streams)
    assert stream_of((1, 2, 3), 0.4, 7) == 8591867950552930921
    assert plan_of((0.0, 0.5, 1.0), 2) == [(0.0, 0), (0.5, 0), (1.0, 0), (0.5, 1), (1.0, 1)]
