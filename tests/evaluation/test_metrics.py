"""Metrics against numbers that a person can compute."""

from __future__ import annotations

from itertools import combinations
from math import isnan

import pytest

from fastsample.evaluation.metrics import (
    Mark,
    at_temperature,
    avg_at_n,
    coverage,
    curve,
    entropy_by_difficulty,
    hidden_tokens,
    maj_at_n,
    mean_pass_at_k,
    mixed,
    paired_interval,
    pass_at_k,
    vote,
    wilson,
)


def marks(*answers, key="a", temperature=1.0, tokens=10, entropy=None):
    return [Mark(temperature, None if a == "-" else a, a == key, tokens, entropy) for a in answers]


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"), [(4, 1, 1, 0.25), (4, 1, 2, 0.5), (4, 2, 2, 5 / 6), (4, 0, 4, 0), (4, 4, 1, 1)]
)
def test_pass_at_k(n, c, k, expected):
    """The formula, and all subsets counted one by one."""
    assert pass_at_k(n, c, k) == pytest.approx(expected)
    subsets = list(combinations([1] * c + [0] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets))


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_pass_at_k_refuses(n, c, k):
    """Numbers that mean nothing are refused."""
    with pytest.raises(ValueError, match="pass_at_k needs"):
        pass_at_k(n, c, k)


def test_rates_are_taken_per_question_first():
    """One right of one and none of four: the mean of 1 and 0, not 1 of 5."""
    two = {"p": marks("a"), "q": marks("b", "b", "b", "b")}
    assert avg_at_n(two) == 0.5
    assert mean_pass_at_k(two, 1) == 0.5
    assert mean_pass_at_k(two, 2) == 0
    assert isnan(mean_pass_at_k(two, 5))


def test_maj_at_n():
    """Ties go to the answer given first; the unparsable do not vote; no vote is wrong."""
    assert vote(marks("a", "b", "b", "a")) is True
    assert vote(marks("b", "a", "-", "-", "-")) is False
    assert vote(marks("-", "-")) is None
    assert maj_at_n({"p": marks("a", "b", "a"), "q": marks("-"), "r": marks("b"), "s": marks("a")}) == 0.5


def test_coverage():
    """p is solved everywhere, q at 1 alone, r nowhere: a vote would not find q, an oracle would."""
    every = {
        "p": marks("a") + marks("a", temperature=0.0),
        "q": marks("b", "a") + marks("b", temperature=0.0),
        "r": marks("b") + marks("b", temperature=0.0),
    }
    found = coverage(every)
    assert found.solved == pytest.approx({0.0: 1 / 3, 1.0: 2 / 3})
    assert found.only == pytest.approx({0.0: 0, 1.0: 1 / 3})
    assert found.anywhere == pytest.approx(2 / 3)
    assert found.by_set == pytest.approx({(0.0, 1.0): 1 / 3, (1.0,): 1 / 3, (): 1 / 3})
    assert avg_at_n(at_temperature(every, 0.0)) == pytest.approx(1 / 3)


def test_entropy_by_difficulty():
    """Right and wrong samples apart, per question first, in the bin of the question's share of right samples."""
    half = marks("a", entropy=1.0) + marks("b", entropy=3.0)
    hard = marks("b", "b", entropy=4.0)
    low, middle = entropy_by_difficulty({"p": half, "q": hard})
    assert (low.low, low.high, low.questions, low.wrong) == (0, 0.25, 1, 4.0)
    assert isnan(low.right)
    assert (middle.low, middle.high, middle.right, middle.wrong) == (0.25, 0.5, 1.0, 3.0)


def test_curves():
    """One sample of two thirds right answers is right in two thirds; all three are right always; tokens add up."""
    one, three = curve({"p": marks("a", "a", "b")}, [1, 3], draws=3000)
    assert one.accuracy == pytest.approx(2 / 3, abs=0.03)
    assert (three.accuracy, three.tokens, three.samples) == (1.0, 30, 3)


def test_mixed_takes_every_temperature_evenly():
    """Two samples of two temperatures are one of each; more of one only where the other has no more."""
    every = {"p": marks("a", tokens=1) + marks("b", "b", "b", temperature=2.0, tokens=100)}
    two, three = mixed(every, [2, 3])
    assert two.tokens == 101
    assert three.tokens == 201


def test_wilson():
    """8 of 10 from the formula's closed form, and the borders that the normal interval gets wrong."""
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == pytest.approx(1)
    assert wilson(0, 0) == (0, 1)


def test_paired_interval():
    """The same answers differ by nothing; ten more of twenty right is more than noise."""
    same = [True, False] * 10
    assert paired_interval(same, same) == (0, 0)
    low, high = paired_interval([True] * 20, same)
    assert 0.2 < low < 0.5 < high < 0.8
    with pytest.raises(ValueError, match="same questions"):
        paired_interval([True], [])


def test_hidden_tokens():
    """Where the visible text has 90 tokens here and 100 there, 1,000 hidden ones there are 900 here."""
    assert hidden_tokens(90, 1100, 1000) == 900
    assert hidden_tokens(7, 7, 0) == 0
    for counts in ((1, 5, 5), (1, 5, -1), (-1, 5, 2)):
        with pytest.raises(ValueError, match="hidden_tokens needs"):
            hidden_tokens(*counts)
