"""Temperatures inside one text: another one for each leg, by its number or by how unsure the model was last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import fsum, isfinite

from ..scoring.base import Scorer
from ..voting.rule import at_least
from .base import Choice, Grow, Score, Steps
from .choice import check_how
from .path import Path
from .plan import temperatures_of
from .task import Task

BY = ("leg", "entropy")


def by_leg(temperatures: tuple[float, ...]) -> Callable[[Path], float]:
    """A temperature for an `Ask`: the first for the first leg, and so on; the last one stays."""
    return lambda path: temperatures[min(path.depth, len(temperatures) - 1)]


def by_entropy(low: float, high: float, nats: float, last: int) -> Callable[[Path], float]:
    """A temperature for an `Ask`: from `low` at no entropy to `high` at `nats`, of the mean over the last tokens.

    Before the first token it is `high`: nothing is known.
    raises: ValueError where the engine does not tell the entropies
    """

    def temperature(path: Path) -> float:
        drawn = [token.entropy for token in path.drawn()[-last:]]
        if not drawn:
            return high
        if not all(map(isfinite, drawn)):
            raise ValueError("a schedule by entropy needs the entropies of the tokens, which this engine does not tell")
        return low + (high - low) * min(1.0, fsum(drawn) / len(drawn) / nats)

    return temperature


@dataclass(frozen=True)
class Schedule:
    """n texts, grown leg by leg, each leg at a temperature of its own; the answer by `how`.

    temperatures: with "/" between them. by=leg: of the first leg, the second, ..., the last one for all others;
                  by=entropy: two, at no entropy and at `nats` or more, of the mean over the `last` tokens
    leg:          tokens of a leg; until: text that ends one before
    Our own; with one temperature its texts are those of `best`, token for token.
    """

    n: int = 8
    temperatures: str = "1.0/0.6"
    by: str = "leg"
    leg: int = 16
    until: str = ""
    last: int = 8
    nats: float = 2.0
    how: str = "vote"

    def __post_init__(self) -> None:
        at_least(1, n=self.n, leg=self.leg, last=self.last)
        values = temperatures_of(self.temperatures)
        if self.by not in BY:
            raise ValueError(f"by must be one of {', '.join(BY)}, got {self.by!r}")
        if self.by == "entropy" and len(values) != 2:
            raise ValueError(f"by=entropy needs two temperatures, such as 0.3/1.0, got {self.temperatures!r}")
        if not 0 < self.nats < float("inf"):
            raise ValueError(f"nats must be a finite number above 0, got {self.nats}")

    def check(self, scorer: Scorer | None) -> None:
        """Raise ValueError for a scorer that does not fit."""
        check_how(self.how, scorer)

    def __call__(self, task: Task) -> Steps:
        """See `base.Method`."""
        self.check(task.scorer)
        values = temperatures_of(self.temperatures)
        heat = by_leg(values) if self.by == "leg" else by_entropy(values[0], values[-1], self.nats, self.last)
        until = (self.until,) if self.until else ()
        alive, finished = [task.root] * self.n, list[Path]()
        while alive:
            asks = [task.ask(p, temperature=heat, until=until, max_new_tokens=min(self.leg, task.limit)) for p in alive]
            paths = list(dict.fromkeys((yield Grow(asks))))
            finished += [path for path in paths if path.is_final]
            alive = [path for path in paths if not path.is_final]
        if self.how != "vote":
            yield Score([path for path in finished if path.answer is not None])
        choice: Choice = task.choose(finished, self.how)
        return choice
