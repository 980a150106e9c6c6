"""Compute-optimal allocation (arXiv 2408.03314): a few samples say how hard a question is, a table what to do."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import fsum, inf
from pathlib import Path as FilePath
from typing import Any

from ..scoring.base import Scorer, aggregate
from .base import Choice, Grow, Score, Steps
from .best_of_n import Best
from .choice import needed, rule_of_choice
from .path import Path, in_turn
from .plan import temperatures_of
from .task import Task

FORMAT = 1
MEASURES = ("agreement", "predicted")


def agreement(answers: Sequence[str | None]) -> float:
    """The share of the first samples that give their most frequent answer; 0 of none."""
    votes = Counter(answer for answer in answers if answer is not None)
    return max(votes.values(), default=0) / max(1, len(answers))


def predicted(scores: Sequence[float]) -> float:
    """The mean score of the first samples that have an answer; -inf, the hardest, where none has one."""
    return fsum(scores) / len(scores) if scores else -inf


@dataclass(frozen=True)
class Table:
    """What to do at which agreement.

    k, temperatures: the first samples, which measure how hard a question is
    edges:           [bins - 1] ascending; a question that measures at least edges[i] is in bin i + 1 or higher
    strategies:      [bins] short forms, for the hardest questions first
    difficulty:      what is measured: see `agreement` and `predicted`; scorer: whose scores, of the latter
    """

    k: int
    temperatures: tuple[float, ...]
    edges: tuple[float, ...]
    strategies: tuple[str, ...]
    difficulty: str = "agreement"
    scorer: str = ""

    def __post_init__(self) -> None:
        if self.difficulty not in MEASURES:
            raise ValueError(f"difficulty must be one of {', '.join(MEASURES)}, got {self.difficulty!r}")
        if len(self.strategies) != len(self.edges) + 1 or list(self.edges) != sorted(self.edges):
            raise ValueError(
                f"a table has ascending edges and one strategy more than edges, got {list(self.edges)} and "
                f"{list(self.strategies)}"
            )
        if odd := [s for s in self.strategies if s.split(":")[0].strip() in ("auto", "vote")]:
            raise ValueError(f"a table names strategies that grow texts, such as best:n=16,how=vote, got {odd[0]!r}")
        if self.k < 1 or not self.temperatures:
            raise ValueError(f"the first samples need k of at least 1 and a temperature, got {self.k}")

    def bin_of(self, measured: float) -> int:
        """0 for the hardest questions."""
        return bisect_right(self.edges, measured)

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`."""
        return {
            "format": FORMAT,
            "k": self.k,
            "temperatures": list(self.temperatures),
            "edges": list(self.edges),
            "strategies": list(self.strategies),
            "difficulty": self.difficulty,
            "scorer": self.scorer,
        }

    @classmethod
    def of_file(cls, path: str) -> Table:
        """What `fastsample allocate --table` wrote; raises ValueError with what is wrong."""
        try:
            record = json.loads(FilePath(path).read_text(encoding="utf-8"))
            if record["format"] != FORMAT:
                raise ValueError(f"it is not of format {FORMAT}")
            temperatures, edges = (tuple(map(float, record[name])) for name in ("temperatures", "edges"))
            strategies = tuple(map(str, record["strategies"]))
            measured = str(record.get("difficulty", "agreement")), str(record.get("scorer", ""))
            return cls(int(record["k"]), temperatures, edges, strategies, *measured)
        except OSError as error:
            raise ValueError(
                f"the table {path} cannot be read: {error.strerror}; fastsample allocate writes one"
            ) from None
        except (KeyError, TypeError, ValueError) as error:
            said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path} is no table of fastsample allocate: {said}") from None


# Where no run was fitted: search where questions are hard, as published tables have it (2502.06703).
UNFITTED = Table(8, (0.8,), (0.5,), ("beam:n=16,m=4", "best:n=16,how=vote"))
UNFITTED_VOTE = replace(UNFITTED, strategies=("best:n=16,how=vote", "best:n=8,how=vote"))


@dataclass(frozen=True)
class Auto:
    """The first samples of a question say how hard it is; the strategy for such questions spends the rest.

    table: a file that `fastsample allocate --table` wrote. Without one, a beam for hard questions where the scorer
           is a process scorer, else a longer vote; nothing was measured for that, and the result says so

    The first samples are the first texts of a vote and of best-of-n, whatever the temperatures: these draw the rest.
    Any other strategy that chooses by scores grows its own paths, and chooses among the first samples too.
    """

    table: str = ""

    def plan(self, scorer: Scorer | None) -> Table:
        """The table; raises ValueError for a file that holds none, or whose scorer is another one."""
        if not self.table:
            return UNFITTED if scorer is not None and getattr(scorer, "is_process", False) else UNFITTED_VOTE
        table = Table.of_file(self.table)
        if table.difficulty == "predicted":
            name = needed("a table of predicted difficulty", scorer, process=False).name
            if name != table.scorer:
                raise ValueError(
                    f"the table {self.table} was fitted on scores of {table.scorer}, got the scorer {name}"
                )
        return table

    def __call__(self, task: Task) -> Steps:
        """See `base.Method`."""
        plan = self.plan(task.scorer)
        first = yield Grow(
            [task.ask(task.root, temperature=t) for t in in_turn(plan.temperatures, plan.k)], [task.root]
        )
        if plan.difficulty == "predicted":
            able = [path for path in dict.fromkeys(first) if path.answer is not None]
            scores = (yield Score(able)) if able else []
            measured = predicted([aggregate(numbers) for numbers in scores])
            said = f"a mean score of {measured:.4g}"
        else:
            measured = agreement([path.answer for path in first])
            said = f"{measured:.0%} of {plan.k} agree"
        text = plan.strategies[plan.bin_of(measured)]
        method = task.method_of(text)
        if isinstance(method, Best):
            choice = yield from self._rest(task, plan, method, first)
        else:
            if chooses_by_scores(method, task.scorer):
                task.known = [path for path in dict.fromkeys(first) if path.answer is not None]
                if plan.difficulty != "predicted":
                    yield Score(task.known)
            choice = yield from method(task)
        fitted = "" if self.table else ", no table fitted"
        return replace(choice, reason=f"{text} ({said}{fitted}): {choice.reason}")

    def _rest(self, task: Task, plan: Table, method: Best, first: Sequence[Path]) -> Steps:
        """Best-of-n whose first texts are there."""
        heats = heats_behind(method, plan.temperatures, plan.k)
        more = (yield Grow([task.ask(task.root, temperature=t) for t in heats], ends=True)) if heats else []
        paths = list(dict.fromkeys([*first, *more]))
        if task.scorer is not None and method.how != "vote":
            yield Score([path for path in paths if path.answer is not None])
        choice: Choice = task.choose(paths, method.how, method.aggregate)
        return choice


def heats_behind(method: Best, temperatures: Sequence[float], k: int) -> list[float]:
    """The temperatures of the texts that best-of-n draws behind k first samples, which were drawn at `temperatures`."""
    own = temperatures_of(method.temperatures)
    return in_turn(own, method.n)[k:] if own == tuple(temperatures) else in_turn(own, max(0, method.n - k))


def chooses_by_scores(method: Any, scorer: Scorer | None) -> bool:
    """Whether a method ends by a choice among finished texts to which their scores decide."""
    return rule_of_choice(getattr(method, "how", "vote"), scorer) in ("best", "weighted")
