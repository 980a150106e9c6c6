"""A head that is learnt: figures that a person can count, a signal that is there, one that is not, and bad labels."""

from __future__ import annotations

import math
import random

import bigram
import pytest
import torch
from tiny import tiny

import fastsample
from fastsample.engines.base import Request
from fastsample.engines.local.engine import LocalEngine
from fastsample.training.heads import Legs, fit, legs_of, scores_of, usual_layer
from fastsample.training.labels import Labelled
from fastsample.training.separation import area, area_by_question


def test_area_by_hand():
    """Pairs that are counted: right above wrong is one, a tie is a half; soft labels count in parts."""
    assert area([1, 2, 3], [0, 0, 1]) == 1.0
    assert area([3, 2, 1], [0, 0, 1]) == 0.0
    assert area([1, 1, 2, 0], [1, 0, 1, 0]) == (0.5 + 1 + 1 + 1) / 4
    assert area([0, 1], [0.25, 0.75]) == pytest.approx((0.75 * 0.75 + (0.25 * 0.75) + 0.25 * 0.25 * 0) / 1.0)
    assert math.isnan(area([1, 2], [1, 1]))


def test_an_area_of_soft_labels_is_that_of_many_hard_ones():
    """A leg of label 0.25 is one right and three wrong legs of the same number."""
    draw = random.Random(0)
    numbers, soft = [draw.randrange(5) for _ in range(20)], [draw.choice((0, 0.25, 0.5, 1)) for _ in range(20)]
    hard = [(x, k < 4 * y) for x, y in zip(numbers, soft) for k in range(4)]
    pairs = [(a > b) + (a == b) / 2 for a, is_right in hard if is_right for b, other in hard if not other]
    assert area(numbers, soft) == pytest.approx(sum(pairs) / len(pairs))


def test_the_interval_is_drawn_by_question():
    """Legs of one question hang together: with them all alike the interval is wider than over as many questions."""
    draw = random.Random(1)
    numbers, labels, questions = [], [], []
    for q in range(60):
        y = q % 2
        x = y + draw.gauss(0, 1.2)
        numbers += [x] * 10
        labels += [y] * 10
        questions += [f"{q}"] * 10
    together = area_by_question(numbers, labels, questions)
    apart = area_by_question(numbers, labels, [f"{n}" for n in range(600)])
    assert together.value == apart.value == area(numbers, labels)
    assert together.low < together.value < together.high
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_states_are_those_of_an_engine():
    """Read again behind one prompt, texts of several lengths in any order: as the engine had them when it wrote."""
    model = tiny("llama")
    engine = LocalEngine(model, None)
    requests = [Request((5, 6, 7 + k % 2), stream=k, max_new_tokens=2 + k % 3, eos=(), layer=1) for k in range(6)]
    samples = engine.submit(requests)
    engine.run()
    labelled = [Labelled(f"{k}", s.request.prompt, tuple(s.tokens), (1, len(s.tokens)), (0.5, k / 5))
                for k, s in enumerate(samples)]  # fmt: skip
    legs = legs_of(model, labelled, [1, 2])
    assert legs.questions == [f"{k}" for k in range(6) for _ in range(2)]
    assert legs.labels.tolist() == [x for k in range(6) for x in (0.5, k / 5)]
    for k, s in enumerate(samples):
        assert (legs.states[1][2 * k + 1] - s.state).abs().max() <= 1e-4 * s.state.abs().max()
        stats = [token.raw_logprob for token in s.stats]
        assert legs.logprobs[2 * k] == pytest.approx(stats[0], abs=1e-4)
        assert legs.logprobs[2 * k + 1] == pytest.approx(sum(stats[1:]) / len(stats[1:]), abs=1e-4)


def made_up(signal, questions=40, each=10, width=6, seed=0):
    """Legs whose label hangs on one number of the state as strongly as `signal` says."""
    draw = torch.Generator().manual_seed(seed)
    states = torch.randn(questions * each, width, generator=draw)
    chance = torch.sigmoid(signal * states[:, 2])
    labels = (torch.rand(len(chance), generator=draw) < chance).double()
    names = [f"{n // each}" for n in range(len(labels))]
    noise = torch.randn(len(labels), width, generator=draw)
    return Legs({1: noise, 2: states}, labels, names, noise[:, 0].tolist())


def test_a_signal_is_found_and_its_layer():
    """Layer 2 has it and layer 1 has none; log-probability neither; the fit is the optimum of its loss."""
    legs = made_up(2.0)
    fitted = fit(legs, tiny("llama"), about={"task": "made up"})
    head = fitted.head
    assert head.layer == 2
    assert fitted.held_out.low > 0.7 > fitted.held_out.low - 0.2
    assert 0.4 < fitted.by_layer[1] < 0.6
    assert fitted.logprob.low < 0.5 < fitted.logprob.high
    assert (head.about["task"], head.about["questions"], head.about["legs"]) == ("made up", 40, 400)
    numbers = scores_of(head, legs)
    assert area(numbers, legs.labels.tolist()) > fitted.held_out.value
    z = (legs.states[2].double() - head.mean) / head.std
    slope = z.T @ (torch.tensor(numbers, dtype=torch.float64) - legs.labels) / len(numbers) + 2 * 0.02 * head.w
    assert slope.abs().max() < 1e-5


def test_no_signal_is_not_found():
    """The twin: nothing but noise, many numbers and few legs. In the fit it looks well, held out it is a coin."""
    legs = made_up(0.0, questions=50, each=4, width=90)
    fitted = fit(legs, tiny("llama"))
    assert area(scores_of(fitted.head, legs), legs.labels.tolist()) > 0.8
    assert fitted.held_out.low < 0.5  # folds without a signal err on the low side: the wrong base rate is learnt
    assert fitted.held_out.value < 0.6


def test_a_question_is_never_in_both_halves():
    """A state that only names its question, and questions all right or all wrong: held out, nothing can be known."""
    questions = 24
    labels = torch.tensor([float((q * 7 % 5) % 2) for q in range(questions) for _ in range(6)], dtype=torch.float64)
    legs = Legs({1: torch.eye(questions).repeat_interleave(6, 0)}, labels, [f"{n // 6}" for n in range(len(labels))],
                [0.0] * len(labels))  # fmt: skip
    fitted = fit(legs, tiny("llama"))
    assert area(scores_of(fitted.head, legs), labels.tolist()) == 1.0
    assert fitted.held_out.value < 0.75


def test_labels_that_teach_nothing():
    """One question, or verdicts that are all the same."""
    legs = made_up(1.0)
    with pytest.raises(ValueError, match="needs labels of two questions at least, got 1"):
        fit(Legs(legs.states, legs.labels, ["a"] * 400, legs.logprobs), tiny("llama"))
    with pytest.raises(ValueError, match="needs right and wrong legs, and all 400 are 0"):
        fit(Legs(legs.states, legs.labels * 0, legs.questions, legs.logprobs), tiny("llama"))
    with pytest.raises(ValueError, match=r"layer must be in \[1, 2\]"):
        legs_of(tiny("llama"), [Labelled("a", (5,), (6,), (1,), (1.0,))], [3])
    with pytest.raises(ValueError, match="MambaForCausalLM keeps recurrent states"):
        legs_of(tiny("mamba"), [Labelled("a", (5,), (6,), (1,), (1.0,))], [1])
    assert (usual_layer(tiny("llama")), usual_layer(tiny("gemma3_text"))) == (1, 4)


def test_from_texts_to_a_search(tmp_path):
    """A bigram model: texts that end in 4 are right; the head that is learnt prefers them, and a search finds them."""
    tokenizer = bigram.bigram_tokenizer()
    model = bigram.bigram_model(tokenizer, {bigram.ASSISTANT: {"4": 0.3, "5": 0.7}, "4": {bigram.END: 1.0},
                                            "5": {bigram.END: 1.0}})  # fmt: skip
    prompts = [tuple(tokenizer(f"<|user|>{n}?<|end|><|assistant|>", add_special_tokens=False)["input_ids"])
               for n in range(12)]  # fmt: skip
    four, five = (tokenizer.convert_tokens_to_ids(word) for word in "45")
    labelled = [Labelled(f"{n}", prompt, (word,), (1,), (float(word == four),))
                for n, prompt in enumerate(prompts) for word in (four, five)]  # fmt: skip
    fitted = fit(legs_of(model, labelled, [1]), model)
    assert fitted.held_out.value == 1.0
    vote = fastsample.solve(model, tokenizer, "99?", strategy="best:n=16,how=vote", max_new_tokens=4)
    best = fastsample.solve(model, tokenizer, "99?", strategy="best:n=16", scorer=fitted.head, max_new_tokens=4)
    assert (vote.answer, best.answer) == ("5", "4")
