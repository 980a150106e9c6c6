"""Temperatures that choose themselves: a question's samples go where its own votes agree. Standard library only.

The first samples are spread evenly. After them a sample is worth 1 if it says what most of the question's others say,
and every next one goes to the temperature whose mean worth, plus its standard error, is largest (an upper confidence
bound: Auer et al. 2002; its Bayesian form: Kaufmann et al. 2012). What is chosen rests on votes by number and on
nothing else, so it is the same in any batch, on any engine, in any order of arrival.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import sqrt

from .ballots import Ballot

EVEN_ROUNDS = 2  # of each temperature, before votes choose
GROWTH = 1.5  # samples are in before the next are chosen: each time half as many more


def block(counted: int, temperatures: int, budget: int) -> int:
    """How many samples are chosen next, after so many; every one of them waits for all before."""
    return min(max(temperatures, round((GROWTH - 1) * counted)), budget - counted)


def agreement(ballots: Sequence[Ballot], temperature: float) -> tuple[float, float]:
    """(mean, standard error) of the chance that a sample of this temperature says what most of the others say.

    A Beta(1, 1) prior. Of answers that share the first place each counts in part; a sample whose answer cannot be read
    agrees with none.
    """
    votes = Counter(b.answer for b in ballots if b.answer is not None)
    mine = Counter(b.answer for b in ballots if b.temperature == temperature)
    agreed = 0.0
    for answer, count in mine.items():
        if answer is not None:
            others = Counter(votes)
            others[answer] -= 1
            most = max(others.values())
            if most > 0 and others[answer] == most:
                agreed += count / sum(n == most for n in others.values())
    return _beta(agreed, mine.total())


def chosen(ballots: Sequence[Ballot], temperatures: Sequence[float], count: int) -> list[float]:
    """The temperatures of the next `count` samples; ties go to the one named first.

    ballots:      all samples so far, by number
    temperatures: those above 0; the text of temperature 0 is drawn once
    """
    drawn = {t: sum(b.temperature == t for b in ballots) for t in temperatures}
    agreed = {t: agreement(ballots, t)[0] for t in temperatures}
    following: list[float] = []
    for _ in range(count):
        # What is chosen already is taken to come out as expected: it narrows the error and moves no mean.
        bound = {t: agreed[t] + _beta(agreed[t] * (drawn[t] + 2) - 1, drawn[t])[1] for t in temperatures}
        best = max(temperatures, key=lambda t: bound[t])
        drawn[best] += 1
        following.append(best)
    return following


def _beta(agreed: float, drawn: int) -> tuple[float, float]:
    mean = (agreed + 1) / (drawn + 2)
    return mean, sqrt(max(0.0, mean * (1 - mean)) / (drawn + 3))
