"""Temperatures that choose themselves: a question's samples go where its own votes agree. Standard library only.

The first samples are spread evenly. After them a sample is worth 1 if it says what most of the question's others say,
and the next ones go to the temperature with the largest mean worth, drawn towards the mean of all temperatures where it
has few samples. What is chosen rests on votes by number and on nothing else, so it is the same in any batch, on any
engine, in any order of arrival. A standard error on top (an upper confidence bound) spread budgets of 20 so evenly that
nothing was left of the choice (bench/temperatures.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .ballots import Ballot

EVEN_ROUNDS = 2  # of each temperature, before votes choose
PRIOR = 2.0  # samples that the prior is worth
GROWTH = 1.5  # samples are in before the next are chosen: each time half as many more


def block(counted: int, temperatures: int, budget: int) -> int:
    """How many samples are chosen next, after so many; every one of them waits for all before."""
    return min(max(temperatures, round((GROWTH - 1) * counted)), budget - counted)


def agreement(ballots: Sequence[Ballot], temperature: float) -> float:
    """How many samples of this temperature say what most of the other samples say.

    Of answers that share the first place each counts in part; a sample whose answer cannot be read agrees with none.
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
    return agreed


def chosen(ballots: Sequence[Ballot], temperatures: Sequence[float]) -> float:
    """The temperature of the next samples; ties go to the one named first.

    ballots:      all samples so far, by number
    temperatures: those above 0; the text of temperature 0 is drawn once
    """
    drawn = {t: sum(b.temperature == t for b in ballots) for t in temperatures}
    agreed = {t: agreement(ballots, t) for t in temperatures}
    common = (sum(agreed.values()) + 1) / (sum(drawn.values()) + 2)
    return max(temperatures, key=lambda t: (agreed[t] + PRIOR * common) / (drawn[t] + PRIOR))
