"""Particle filtering: n paths, after every leg drawn anew from among themselves by their scores (arXiv 2502.01618)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

from ..scoring.base import Scorer, aggregate, is_probability
from ..voting.rule import at_least
from .base import Choice, Grow, Score, Steps
from .choice import check_choice, needed
from .path import Path
from .task import Task


@dataclass(frozen=True)
class Particles:
    """n particles; weights softmax(logit(score)), over finished and unfinished ones; systematic resampling.

    A finished particle keeps its last weight. its_hub's defaults, but for `until` (see `beam_search.Beam`). Its scorer
    must give numbers in [0, 1].
    """

    n: int = 16
    until: str = "\n\n"
    leg: int = 256
    depth: int = 40
    temperature: float = 0.8
    aggregate: str = "last"
    how: str = "auto"

    def __post_init__(self) -> None:
        at_least(1, n=self.n, leg=self.leg, depth=self.depth)
        check_choice(self.how, self.aggregate, None)

    def check(self, scorer: Scorer | None) -> None:
        """Raise ValueError for a scorer that does not fit."""
        check_choice(self.how, self.aggregate, needed("particles", scorer, process=True))
        if scorer is not None and not is_probability(scorer):
            raise ValueError(
                f"particles need scores in [0, 1], {scorer.name} gives any number; use sigmoid:{scorer.name}"
            )

    def __call__(self, task: Task) -> Steps:
        """See `base.Method`."""
        self.check(task.scorer)
        particles = [task.root] * self.n
        finished: list[Path] = []
        for depth in range(self.depth):
            until = (self.until,) if self.until else ()
            most = min(self.leg, task.limit)
            alive = [p for p in particles if not p.is_final]
            asks = [task.ask(p, until=until, max_new_tokens=most, temperature=self.temperature) for p in alive]
            grown = yield Grow(asks)
            yield Score(list(dict.fromkeys(grown)))
            following = iter(grown)
            particles = [p if p.is_final else next(following) for p in particles]
            finished += [p for p in dict.fromkeys(grown) if p.is_final]
            if all(p.is_final for p in particles):
                break
            weights = softmax([logit(aggregate(p.scores, self.aggregate)) for p in particles])
            particles = [particles[i] for i in systematic(weights, task.uniform(f"particles {depth}"))]
            if all(p.is_final for p in particles):
                break
        choice: Choice = task.choose(finished, self.how, self.aggregate)
        return choice


def logit(p: float) -> float:
    """log(p / (1 - p)); at most 40 either way, so that 0 and 1 have one too."""
    return 40.0 if p >= 1 - 1e-17 else -40.0 if p <= 1e-17 else max(-40.0, min(40.0, log(p) - log(1 - p)))


def softmax(values: Sequence[float]) -> list[float]:
    """Positive weights that add up to 1."""
    raised = [exp(value - max(values)) for value in values]
    return [value / sum(raised) for value in raised]


def systematic(weights: Sequence[float], uniform: float) -> list[int]:
    """Systematic resampling: as many places as there are weights, place i drawn floor or ceil of len * weight times."""
    count, chosen, reached, place = len(weights), [], weights[0], 0
    for i in range(count):
        while (i + uniform) / count >= reached and place < count - 1:
            place += 1
            reached += weights[place]
        chosen.append(place)
    return chosen
