"""What a scorer is: whole samples in, a number for each out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Protocol

from ..token_stats import NO_MEANS, MeanStats


@dataclass(frozen=True)
class Candidate:
    """A finished sample, as a scorer sees it.

    question: what was asked; text: what was written; answer: in canonical form, None where none could be read
    tokens:   token ids, [] where the engine does not tell them; means: of the tokens' statistics, in nats
    """

    question: str
    text: str
    answer: str | None
    tokens: tuple[int, ...] = ()
    means: MeanStats = NO_MEANS


class Scorer(Protocol):
    """Numbers for samples; higher is better.

    name: what a run's settings and a report call it
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    def score(self, candidates: Sequence[Candidate]) -> Sequence[float]:
        """One finite number for each candidate, in their order; called with all that wait, of many questions."""
        ...


def scores_of(scorer: Scorer, candidates: Sequence[Candidate]) -> list[float]:
    """What the scorer says, looked at: raises ValueError for a wrong count or a number that is not finite."""
    scores = [float(score) for score in scorer.score(candidates)]
    if len(scores) != len(candidates):
        raise ValueError(
            f"a scorer must return a number for each of {len(candidates)} samples, {scorer.name} returned {len(scores)}"
        )
    for score in scores:
        if not isfinite(score):
            raise ValueError(f"a scorer must return finite numbers, {scorer.name} returned {score}")
    return scores
