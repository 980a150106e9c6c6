"""Weighted votes against tables, and DeepConf's early abort on traces that were made for it."""

from __future__ import annotations

from math import e

import pytest

from fastsample.evaluation.replay import StoredEngine, replay
from fastsample.strategies.question import Settings
from fastsample.strategies.records import Written, lowest
from fastsample.token_stats import MeanStats
from fastsample.voting.ballots import Ballot, Tally
from fastsample.voting.registry import rule_of
from fastsample.voting.weighted import Confidence, Weighted


def ballots(*pairs, by="self_certainty"):
    return [Ballot(n, 1.0, answer, MeanStats(**{by: value})) for n, (answer, value) in enumerate(pairs)]


def test_softmax_weights():
    """Values 1, 0, 0: weights e, 1, 1 over their sum; an unparsable sample takes no part."""
    weights = Weighted().weights(ballots(("a", 1.0), (None, 9.0), ("b", 0.0), ("b", 0.0)))
    assert weights == pytest.approx([e / (e + 2), 0, 1 / (e + 2), 1 / (e + 2)])


def test_borda_weights():
    """Ranks 1, 2.5, 2.5, 4 (equal values share a place), raised to the power, over their sum."""
    votes = ballots(("a", 0.1), ("b", 0.5), ("a", 0.5), ("c", 0.9))
    assert Weighted(how="borda").weights(votes) == pytest.approx([0.1, 0.25, 0.25, 0.4])
    assert Weighted(how="borda", power=2.0).weights(votes) == pytest.approx([x / 29.5 for x in (1, 6.25, 6.25, 16)])


def test_one_certain_sample_can_outweigh_two():
    """b's e^2 against a's 1 + 1, and entropy counts the other way round."""
    assert Weighted().choose(ballots(("a", 0.0), ("a", 0.0), ("b", 2.0)))[0] == "b"
    low_entropy = ballots(("a", 2.0), ("a", 2.0), ("b", 0.0), by="entropy")
    assert Weighted(by="entropy").choose(low_entropy)[0] == "b"


def test_missing_values_weigh_nothing_beside_known_ones():
    """A sample without a value cannot win against one with it; without any value it is the plain vote."""
    certain = Ballot(2, 1.0, "b", MeanStats(self_certainty=0.0))
    assert Weighted().choose([Ballot(0, 1.0, "a"), Ballot(1, 1.0, "a"), certain])[0] == "b"
    assert Weighted().choose([Ballot(0, 1.0, "a"), Ballot(1, 1.0, "b"), Ballot(2, 1.0, "b")])[0] == "b"
    assert Weighted().choose([]) == (None, False)


def test_weights_do_not_know_the_length():
    """Means over tokens: a long and a short sample with equal means weigh the same."""
    short = Written(0, 1.0, 0, 0, "", "a", 2, "eos", means=MeanStats(logprob=-0.5))
    long = Written(1, 1.0, 1, 0, "", "b", 200, "eos", means=MeanStats(logprob=-0.5))
    weights = Weighted(by="mean_logprob").weights([short.ballot(), long.ballot()])
    assert weights == [0.5, 0.5]


@pytest.mark.parametrize(
    ("certainties", "window", "expected"),
    [([4, 1, 1, 4], 2, 1.0), ([4, 1, 4], 2, 2.5), ([4, 1], 8, 2.5), ([3], 1, 3.0)],
)
def test_lowest_window(certainties, window, expected):
    """The weakest run of `window` tokens; the whole sample where it is shorter."""
    assert lowest(certainties, window) == expected
    assert lowest([], window) is None


def test_threshold_keeps_the_best_share_of_the_warm_up():
    """Of ten weakest spots 1 ... 10, keeping 0.9 draws the line at the second lowest."""
    tally = Tally([1.0] * 20)
    rule = Confidence(warmup=10, keep=0.9)
    for n in range(10):
        assert rule.threshold(tally) is None
        tally.add(Ballot(n, 1.0, "a", MeanStats(self_certainty=1.0), lowest=float(n + 1)))
    assert rule.threshold(tally) == 2.0


def trace(number, answer, certainties):
    mean = sum(certainties) / len(certainties)
    means = MeanStats(self_certainty=mean)
    certainties = tuple(map(float, certainties))
    return Written(number, 1.0, number, number, "", answer, len(certainties), "eos", means, certainties=certainties)


def play(traces, rule, **kwargs):
    settings = Settings((1.0,), len(traces), rule)
    engine = StoredEngine([dict(enumerate(traces))], by_token=True, **kwargs)
    ((_, result),) = replay([dict(enumerate(traces))], settings, rule, engine=engine)
    return result


STRONG, WEAK = [5] * 20, [5, 5, 1, 1] + [5] * 16
RULE = Confidence(warmup=4, keep=0.9, window=2, share=0.99)


def test_weak_traces_are_aborted_while_they_are_written():
    """After four strong samples, a trace whose certainty falls to 1 at token 3 ends there and does not vote."""
    traces = [trace(n, "AB"[n % 2], STRONG) for n in range(4)]
    traces += [trace(4, "B", WEAK), trace(5, "A", STRONG), trace(6, "B", WEAK), trace(7, "A", STRONG)]
    result = play(traces, RULE)
    finishes = [s.finish for s in result.samples]
    assert finishes == ["eos"] * 4 + ["aborted", "eos", "aborted", "eos"]
    assert [s.tokens for s in result.samples][4:] == [3, 20, 3, 20]  # windows 5 5, 5 1: it falls at token 3
    assert result.answer == "A"
    assert result.votes == {"1": {"A": 4, "B": 2}}


def test_traces_above_the_threshold_are_left_alone():
    """The twin: the same traces with the warm-up as weak as the rest, nothing is aborted and B wins."""
    traces = [trace(n, "AB"[n % 2], WEAK) for n in range(4)]
    traces += [trace(4, "B", WEAK), trace(5, "A", STRONG), trace(6, "B", WEAK), trace(7, "B", STRONG)]
    result = play(traces, RULE)
    assert [s.finish for s in result.samples] == ["eos"] * 8
    assert result.answer == "B"


def test_confidence_stops_at_its_share():
    """A unanimous warm-up has all the weight: nothing after it is started."""
    result = play([trace(n, "A", STRONG) for n in range(12)], RULE)
    assert (result.status, len(result.samples), result.answer) == ("easy", 4, "A")


def test_replay_takes_the_steps_of_the_lengths():
    """Samples of 3 and 5 tokens side by side take 4 passes after the prompt, in one slot 2 + 4."""
    stored = [{0: trace(0, "A", [1] * 3), 1: trace(1, "A", [1] * 5)}]
    for slots, steps in ((2, 4), (1, 6)):
        for by_token in (False, True):
            engine = StoredEngine(stored, slots=slots, by_token=by_token)
            settings = Settings((1.0,), 2)
            ((_, result),) = replay(stored, settings, rule_of("majority"), engine=engine)
            assert engine.steps == steps
            assert result.tokens == 8
