"""Temperatures inside a text: against plain samples where nothing changes, and against each leg's own numbers."""

from __future__ import annotations

import math

import bigram
import pytest
from world import Tokens, answer, world

from fastsample.solving.solve import solve
from fastsample.strategies.path import Ask, Path
from fastsample.strategies.registry import method_of
from fastsample.strategies.schedule import by_entropy, by_leg
from fastsample.token_stats import NO_STATS

LETTERS = {
    bigram.ASSISTANT: {"a": 0.5, "b": 0.5},
    "a": {"a": 0.5, "b": 0.45, bigram.END: 0.05},
    "b": {"a": 1.0},
}


@pytest.fixture(scope="module")
def letters():
    tokenizer = bigram.bigram_tokenizer()
    return bigram.bigram_model(tokenizer, LETTERS), tokenizer


def grown(lm, strategy, **more):
    settings = {"extractor": lambda text: str(len(text)), "max_new_tokens": 30, "seed": 4}
    return solve(*lm, "go", strategy=strategy, **(settings | more))


@pytest.mark.parametrize("strategy", ["schedule:n=6,leg=4,temperatures=0.8", "schedule:n=6,leg=4,temperatures=0.8/0.8"])
def test_one_temperature_writes_plain_samples(letters, strategy):
    """Legs of four tokens at one temperature are, token for token, the texts of best."""
    plain = grown(letters, "best:n=6,how=vote,temperatures=0.8")
    found = grown(letters, strategy)
    assert sorted(s.token_ids for s in found.samples) == sorted(s.token_ids for s in plain.samples)
    assert (found.answer, found.tokens) == (plain.answer, plain.tokens)


def test_each_leg_has_its_temperature(letters):
    found = grown(letters, "schedule:n=6,leg=4,temperatures=1.0/0.6/0.3")
    legs = [p for p in found.paths if p.parent is not None]
    assert max(p.depth for p in legs) > 3
    assert {(min(p.depth, 3), p.temperature) for p in legs} == {(1, 1.0), (2, 0.6), (3, 0.3)}


def test_entropy_sets_the_temperature(letters):
    """The mean over the last three tokens, worked out from the table: behind b nothing is open."""
    found = grown(letters, "schedule:n=6,leg=4,by=entropy,temperatures=0.2/1.0,last=3,nats=1")
    behind = {"a": -sum(p * math.log(p) for p in LETTERS["a"].values()), "b": 0.0}
    seen = set()
    for path in found.paths:
        if path.parent is None:
            continue
        above = path.parent.whole() if path.parent.parent is not None else ""
        if not above:
            assert path.temperature == 1.0
            continue
        before = ["", *above]  # what stood before each token
        drawn = [behind[token] for token in before[-4:-1] if token]
        wanted = 0.2 + 0.8 * min(1.0, sum(drawn) / len(drawn))
        assert path.temperature == pytest.approx(wanted, abs=1e-3)
        seen.add(round(wanted, 2))
    assert len(seen) > 2


def test_the_same_beside_others_and_on_an_engine_without_entropies():
    more = {"extractor": answer, "max_new_tokens": 40}
    runs = [
        solve(None, Tokens(), "3", strategy="schedule:n=4,leg=2", engine=world(0.7, slots=slots), **more)
        for slots in (1, 64)
    ]
    assert [s.token_ids for s in runs[0].samples] == [s.token_ids for s in runs[1].samples]
    path = Path(1, Path(0, None, (1,)), (1,), tokens=(5,), stats=(NO_STATS,))
    with pytest.raises(ValueError, match="needs the entropies"):
        by_entropy(0.2, 1.0, 2.0, 4)(path)


def test_an_ask_takes_a_function_of_the_path():
    root = Path(0, None, (1, 2))
    assert Ask(root, temperature=by_leg((0.9, 0.4))).temperature == 0.9
    leg = Path(1, root, (1, 2), (7,))
    assert [Ask(leg, temperature=by_leg(ts)).temperature for ts in ((0.9, 0.4), (0.9,))] == [0.4, 0.9]
    for odd in (-1.0, float("nan"), "0.5"):
        with pytest.raises(ValueError, match="a temperature must be a finite number"):
            Ask(root, temperature=lambda path, odd=odd: odd)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("schedule:by=mood", "by must be one of leg, entropy"),
        ("schedule:by=entropy,temperatures=0.4", "needs two temperatures"),
        ("schedule:temperatures=hot", "temperatures must be numbers"),
        ("schedule:nats=0", "nats must be"),
        ("schedule:leg=0", "leg must be at least 1"),
    ],
)
def test_bad_input(text, part):
    with pytest.raises(ValueError, match=part):
        method_of(text)
