"""Stopping times by simulation, and what must hold for any tally."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsample.voting.ballots import Ballot, Tally
from fastsample.voting.registry import rule_of
from fastsample.voting.stopping import Ahead, Beta, Certified, Decided, Majority, TwoStage, Window

BUDGET = 40
CHANCES = (0.99, 0.90, 0.80, 0.60)


def simulate(rule, p, runs=2000, wrong=3, temperatures=(1.0,), seed=1, budget=BUDGET):
    """(mean samples, share of runs that elect the likeliest answer); the other answers share 1 - p evenly."""
    rng = random.Random(seed)
    plan = [temperatures[n % len(temperatures)] for n in range(budget)]
    spent = right = 0
    for _ in range(runs):
        answers = ["0" if rng.random() < p else str(1 + rng.randrange(wrong)) for _ in plan]
        ballots = [Ballot(n, plan[n], a) for n, a in enumerate(answers)]
        stop = rule.first_stop(ballots, plan) or budget
        spent += stop
        right += rule.choose(ballots[:stop])[0] == "0"
    return spent / runs, right / runs


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Beta(), (4.1, 5.3, 7.1, 14.8)),
        (Ahead(), (3.1, 3.6, 4.6, 7.4)),
        (Window(), (5.3, 8.5, 14.7, 30.8)),
    ],
)
def test_expected_stopping_times(rule, expected):
    """The page's table of mean votes, within 6 % and simulation noise."""
    for p, votes in zip(CHANCES, expected):
        assert simulate(rule, p)[0] == pytest.approx(votes, rel=0.06)


def test_certified_stopping_times():
    """Six unanimous votes at least, and never later than the page's values, whose second test is the stricter one of
    the leader against all other answers together."""
    for p, votes in zip(CHANCES, (6.3, 9.4, 14.7, 32.6)):
        assert 6 <= simulate(Certified(), p)[0] <= votes


def test_two_stage_stopping_times():
    """Four temperatures above 0, a first round of four, judged after every round from there."""
    for p, votes in zip(CHANCES, (16.8, 28.0, 49.3, 63.4)):
        mean, _ = simulate(TwoStage(first=4), p, runs=600, temperatures=(0.2, 0.4, 0.8, 1.2), budget=64)
        assert mean == pytest.approx(votes, rel=0.06)


def test_ahead_elects_the_mode_as_often_as_the_page_says():
    """Three votes ahead at p = 0.6: right in 97 %."""
    assert simulate(Ahead(), 0.6, runs=4000)[1] == pytest.approx(0.97, abs=0.012)


def test_certified_keeps_its_promise():
    """Two answers of equal chance: either is certified in at most delta of the runs, however long one looks."""
    delta, rng, certified = 0.1, random.Random(3), 0
    for _ in range(1500):
        ballots = [Ballot(n, 1.0, rng.choice("ab")) for n in range(200)]
        stop = Certified(delta=delta).first_stop(ballots, [1.0] * 200)
        certified += stop is not None and Certified().choose(ballots[:stop])[0] == "a"
    assert certified / 1500 <= delta


def test_a_careless_rule_breaks_that_promise():
    """The twin: Ahead has no such bound and certifies one of two equal answers far more often."""
    rng, elected = random.Random(3), 0
    for _ in range(300):
        ballots = [Ballot(n, 1.0, rng.choice("ab")) for n in range(200)]
        stop = Ahead().first_stop(ballots, [1.0] * 200)
        elected += stop is not None and Ahead().choose(ballots[:stop])[0] == "a"
    assert elected / 300 > 0.3


answers = st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=24)


@given(answers, st.randoms(use_true_random=False))
def test_decided_never_changes_the_answer(votes, rng):
    """Whatever the votes and the order in which they come in: the full vote's answer, at the latest at the end."""
    tally, full = Tally([1.0] * len(votes)), Tally([1.0] * len(votes))
    for n, vote in enumerate(votes):
        full.add(Ballot(n, 1.0, vote))
    order = list(range(len(votes)))
    rng.shuffle(order)
    for n in order:
        tally.add(Ballot(n, 1.0, votes[n]))
        verdict = Decided().judge(tally)
        if verdict.is_final:
            break
    assert verdict.is_final
    assert verdict.answer == Majority().judge(full).answer


@given(
    answers, st.randoms(use_true_random=False), st.sampled_from(["beta", "ahead", "ahead:k=2", "certified:delta=0.4"])
)
def test_the_order_of_finishing_decides_nothing(votes, rng, name):
    """Samples that finish in any order elect what taking them by number elects: no preference for short ones."""
    rule, plan = rule_of(name), [1.0] * len(votes)
    ballots = [Ballot(n, 1.0, vote) for n, vote in enumerate(votes)]
    expected = rule.choose(ballots[: rule.first_stop(ballots, plan) or len(votes)])[0]
    tally = Tally(plan)
    order = list(range(len(votes)))
    rng.shuffle(order)
    for n in order:
        tally.add(ballots[n])
        verdict = rule.judge(tally)
        if verdict.is_final:
            break
    assert verdict.is_final
    assert verdict.answer == expected


@pytest.mark.parametrize("name", ["beta", "ahead", "certified", "decided"])
def test_short_answers_are_not_preferred(name):
    """Short samples say "s" in 40 %, long ones "l" in 60 %: finishing first must not help "s"."""
    rng, short_wins, first_finished_wins = random.Random(5), 0, 0
    rule = rule_of(name)
    for _ in range(200):
        votes = ["s" if rng.random() < 0.4 else "l" for _ in range(40)]
        tally = Tally([1.0] * 40)
        order = sorted(range(40), key=lambda n: (votes[n] == "l", n))
        for n in order:
            tally.add(Ballot(n, 1.0, votes[n]))
            verdict = rule.judge(tally)
            if verdict.is_final:
                break
        short_wins += verdict.answer == "s"
        naive = [Ballot(i, 1.0, votes[n]) for i, n in enumerate(order)]
        stop = rule.first_stop(naive, [1.0] * 40)
        first_finished_wins += stop is not None and rule.choose(naive[:stop])[0] == "s"
    by_number = sum(_elects(rule, rng, "s") for _ in range(200))
    assert abs(short_wins - by_number) < 45
    if name != "decided":
        assert first_finished_wins > 190  # the twin: what deciding on the first to finish would do


def _elects(rule, rng, answer):
    ballots = [Ballot(n, 1.0, "s" if rng.random() < 0.4 else "l") for n in range(40)]
    return rule.choose(ballots[: rule.first_stop(ballots, [1.0] * 40) or 40])[0] == answer
