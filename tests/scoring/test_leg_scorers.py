"""Scorers of legs: the draw's own signals, a model as a judge, process reward models in their four published forms."""

from __future__ import annotations

from dataclasses import replace
from math import exp, prod
from types import SimpleNamespace

import bigram
import pytest
import torch

import fastsample
from fastsample.scoring.base import Candidate, Leg, aggregate, numbers_of
from fastsample.scoring.signals import Sigmoid, Signal
from fastsample.scoring.token_prm import FORMS, TokenPRM
from fastsample.scoring.verifiers import scorer_of
from fastsample.scoring.yes_no import Judge
from fastsample.token_stats import MeanStats


def candidate(*legs, means=None):
    pieces = tuple(Leg(text, mean) for text, mean in zip(legs, means or [MeanStats()] * len(legs)))
    return Candidate("q", "".join(legs), None, legs=pieces)


@pytest.mark.parametrize(("how", "value"), [("last", 0.4), ("min", 0.2), ("prod", 0.9 * 0.2 * 0.4), ("mean", 0.5)])
def test_aggregation(how, value):
    """Of 0.9, 0.2 and 0.4."""
    assert aggregate([0.9, 0.2, 0.4], how) == pytest.approx(value)
    assert prod([0.9, 0.2, 0.4]) == aggregate([0.9, 0.2, 0.4], "prod")


def test_aggregation_refuses_other_words_and_nothing():
    """With the words there are."""
    with pytest.raises(ValueError, match="aggregate must be one of last, min, prod, mean, got 'max'"):
        aggregate([1.0], "max")
    with pytest.raises(ValueError, match="without legs has no score"):
        aggregate([])


def test_signals_are_means_of_each_leg():
    """Entropy is turned round; a leg without drawn tokens gets what was before it."""
    means = [MeanStats(-1.0, -2.0, 3.0, 4.0), MeanStats(), MeanStats(-0.5, -0.25, 1.0, 2.0)]
    for by, expected in (
        ("logprob", (-1.0, -1.0, -0.5)), ("raw_logprob", (-2.0, -2.0, -0.25)), ("entropy", (-3.0, -3.0, -1.0)),
        ("self_certainty", (4.0, 4.0, 2.0)),
    ):  # fmt: skip
        assert numbers_of(scorer_of(f"signal:{by}"), [candidate("a", "b", "c", means=means)]) == [expected]
    squeezed = numbers_of(scorer_of("sigmoid:signal:logprob"), [candidate("a", means=means[:1])])
    assert squeezed == [(pytest.approx(1 / (1 + exp(1))),)]
    assert numbers_of(Sigmoid(scorer_of("exact:4")), [Candidate("q", "4", "4")]) == [
        (pytest.approx(1 / (1 + exp(-1))),)
    ]
    with pytest.raises(ValueError, match="a signal is one of logprob"):
        Signal("loudness")


@pytest.fixture(scope="module")
def tokenizer():
    return bigram.bigram_tokenizer()


def test_a_judge_is_yes_against_no(tokenizer):
    """After the assistant's mark Y has 0.6 and N 0.2: three quarters, for every leg, in a run's own model."""
    model = bigram.bigram_model(tokenizer, {bigram.ASSISTANT: {"Y": 0.6, "N": 0.2, "4": 0.2}, "4": {bigram.END: 1.0}})
    judge = Judge(model, tokenizer)
    assert numbers_of(judge, [candidate("a", "b")]) == [(pytest.approx(0.75, abs=1e-3),) * 2]
    whole = Judge(model, tokenizer, is_process=False)
    assert numbers_of(whole, [candidate("a", "b")]) == [(pytest.approx(0.75, abs=1e-3),)]
    found = fastsample.solve(model, tokenizer, "2?", strategy="weighted:n=4", scorer="judge", max_new_tokens=2)
    assert found.score == pytest.approx(0.75 * sum(s.answer == found.answer for s in found.samples), abs=1e-2)
    with pytest.raises(ValueError, match="begin with the same token"):
        numbers_of(Judge(model, tokenizer, yes="No"), [candidate("a")])


def test_a_judge_reads_a_leg_once(tokenizer, monkeypatch):
    """Also where other legs stand behind it and texts are told apart by their question; new weights, a new verdict."""
    model = bigram.bigram_model(tokenizer, {bigram.ASSISTANT: {"Y": 0.6, "N": 0.2, "4": 0.2}})
    judge, passes, forward = Judge(model, tokenizer), [], type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda *a, **k: passes.append(1) or forward(*a, **k))
    for legs, count in ((["a"], 1), (["a", "b"], 2), (["a", "b"], 2), (["a", "b", "a"], 3), (["b"], 4)):
        assert numbers_of(judge, [candidate(*legs)]) == [(pytest.approx(0.75, abs=1e-3),) * len(legs)]
        assert len(passes) == count
    numbers_of(judge, [replace(candidate("a"), question="another")])
    assert len(passes) == 5
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    ((changed,),) = numbers_of(judge, [candidate("a")])
    assert len(passes) == 6
    assert abs(changed - 0.75) > 0.01


class Counting:
    """A model whose logits at a place are known: good there is the sum of all ids so far, bad and the rest 0."""

    def __init__(self, width, good):
        self.width, self.good = width, good

    def parameters(self):
        return iter([torch.zeros(1)])

    def __call__(self, ids):
        sums = ids[0].cumsum(0) / 1000
        logits = torch.zeros(1, ids.shape[1], self.width)
        logits[0, :, self.good] = sums
        return SimpleNamespace(logits=logits, values=sums[None])


class Words:
    """Words are tokens, numbered as they come; <extra_0> is one; a chat is its turns."""

    def __init__(self):
        self.ids = {}

    def __call__(self, text, add_special_tokens=True):
        for mark in ("<extra_0>", "\n", "ки", "+", "-", "[user]", "[assistant]", "[system]"):
            text = text.replace(mark, f" {mark.replace(chr(10), 'NEWLINE')} ")
        return {"input_ids": [self.ids.setdefault(word, 2 + len(self.ids)) for word in text.split()]}

    def apply_chat_template(self, turns, add_generation_prompt, tokenize):
        return "".join(f"[{t['role']}]{t['content']}" for t in turns) + ("[assistant]" if add_generation_prompt else "")


LEGS = ("one and\n\n", "two - plus\n\n", "three ки\n\n")


@pytest.mark.parametrize("form", FORMS)
def test_each_form_reads_its_places(form):
    """One place a leg, where a person finds it; the number there is the sigmoid of the sum of all ids up to it."""
    words = Words()
    good = words("+")["input_ids"][0]
    words("-")
    prm = TokenPRM(Counting(100, 1 if form.startswith("qwen") else good), words, form)
    ids, places = prm.encode("q", LEGS)
    by_id = {number: word for word, number in words.ids.items()}
    read = [by_id[ids[place]] for place in places]
    assert read == {"math-shepherd": ["ки"] * 3, "rlhflow": ["[assistant]"] * 3, "qwen2.5-math-prm": ["<extra_0>"] * 3,
                    "skywork": ["NEWLINE"] * 3}[form]  # fmt: skip
    before = [by_id[ids[place - 1]] for place in places]
    assert before == ["and", "plus", "ки"]
    sums = [sum(ids[: place + 1]) / 1000 for place in places]
    assert numbers_of(prm, [candidate(*LEGS)]) == [tuple(pytest.approx(1 / (1 + exp(-s)), abs=1e-6) for s in sums)]


def test_a_form_on_a_real_model(tokenizer):
    """math-shepherd over a bigram model: behind the tag's last byte "+" has 0.8 and "-" 0.2."""
    tag = tokenizer.convert_ids_to_tokens(tokenizer(" ки", add_special_tokens=False)["input_ids"][-1:])[0]
    model = bigram.bigram_model(tokenizer, {tag: {"+": 0.8, "-": 0.2}})
    assert numbers_of(TokenPRM(model, tokenizer, "math-shepherd"), [candidate("a", "b - +")]) == [
        (pytest.approx(0.8, abs=1e-4),) * 2
    ]


def test_what_does_not_fit_is_refused():
    """An unknown form, a tag that is no token, a template that changes what was said before."""

    class Forgetful(Words):
        def apply_chat_template(self, turns, add_generation_prompt, tokenize):
            return super().apply_chat_template(turns[-1:], add_generation_prompt, tokenize)

    class Bytes(Words):
        def __call__(self, text, add_special_tokens=True):
            return {"input_ids": list(text.encode())}

    with pytest.raises(ValueError, match="a form is one of math-shepherd"):
        TokenPRM(None, None, "mine")
    with pytest.raises(ValueError, match="changes earlier turns"):
        TokenPRM(None, Forgetful(), "rlhflow").encode("q", LEGS)
    with pytest.raises(ValueError, match="needs <extra_0> as one token"):
        TokenPRM(None, Bytes(), "qwen2.5-math-prm").encode("q", LEGS)
