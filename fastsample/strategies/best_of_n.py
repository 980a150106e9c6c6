"""Best-of-n: n texts of one question at once, each scored, one chosen; and the votes that weigh by score."""

from __future__ import annotations

from dataclasses import dataclass

from ..scoring.base import Scorer
from ..voting.rule import at_least
from .base import Choice, Grow, Score, Steps
from .choice import check_choice, needed
from .path import in_turn
from .plan import temperatures_of
from .task import Task


@dataclass(frozen=True)
class Best:
    """n texts in one batch, the one with the highest score.

    how:          see `choice.choose`; `weighted` and `tie` are names of their own too
    temperatures: with "/" between them, taken in turn; 0.8 (search-and-learn's). Text k of a temperature is sample k of
                  a vote at that temperature
    """

    n: int = 16
    how: str = "best"
    temperatures: str = "0.8"
    aggregate: str = "last"

    def __post_init__(self) -> None:
        at_least(1, n=self.n)
        check_choice(self.how, self.aggregate, None)
        temperatures_of(self.temperatures)

    def check(self, scorer: Scorer | None) -> None:
        """Raise ValueError for a scorer that does not fit."""
        if self.how in ("best", "weighted", "tie"):
            needed(self.how, scorer, process=False)
        check_choice(self.how, self.aggregate, None if self.how == "vote" else scorer)

    def __call__(self, task: Task) -> Steps:
        """See `base.Method`."""
        self.check(task.scorer)
        heats = in_turn(temperatures_of(self.temperatures), self.n)
        paths = yield Grow([task.ask(task.root, temperature=t) for t in heats], ends=True)
        able = [path for path in dict.fromkeys(paths) if path.answer is not None]
        if task.scorer is not None and self.how != "vote":
            yield Score(able)
        choice: Choice = task.choose(paths, self.how, self.aggregate)
        return choice


@dataclass(frozen=True)
class WeightedVote(Best):
    """n texts, the answer with the largest sum of scores; the default of Snell et al. and of search-and-learn."""

    how: str = "weighted"
