"""Beam search over legs, with lookahead; and diverse verifier tree search, which is several beams of one path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..scoring.base import Scorer, aggregate
from ..voting.rule import at_least
from .base import Choice, Grow, Score, Steps
from .choice import check_choice, needed
from .path import Ask, Path, in_turn
from .plan import temperatures_of
from .task import Task
from .together import together


@dataclass(frozen=True)
class Beam:
    """n first legs; the best n / m are kept, and continued m times each; again, until all have come to their ends.

    n, m:      paths, and children of a kept one (m = 4: search-and-learn, compute-optimal-tts, Snell et al.)
    lookahead: an unfinished path is judged by a greedy rollout of so many further legs; a rollout that comes to its
               end is a candidate
    until:     what ends a leg ("\\n\\n": search-and-learn, openr, its_hub), leg: its most tokens; depth: most legs (40:
               search-and-learn)
    aggregate: of a path's numbers, in the search and in the choice alike; how: see `choice.choose`

    A finished path keeps its place, so the beam shrinks, as openr's does; the places that are left are always used.
    Equal unfinished siblings are made one.
    """

    n: int = 16
    m: int = 4
    lookahead: int = 0
    until: str = "\n\n"
    leg: int = 256
    depth: int = 40
    temperatures: str = "0.8"
    aggregate: str = "last"
    how: str = "auto"

    def __post_init__(self) -> None:
        at_least(1, n=self.n, m=self.m, leg=self.leg, depth=self.depth)
        at_least(0, lookahead=self.lookahead)
        if self.n % self.m:
            fitting = " or ".join(f"n={n}" for n in (self.n // self.m * self.m, (self.n // self.m + 1) * self.m) if n)
            raise ValueError(f"n must be a multiple of m, got n={self.n}, m={self.m}; {fitting}")
        check_choice(self.how, self.aggregate, None)
        temperatures_of(self.temperatures)

    def check(self, scorer: Scorer | None) -> None:
        """Raise ValueError for a scorer that does not fit."""
        check_choice(self.how, self.aggregate, needed(type(self).__name__.lower(), scorer, process=True))

    def __call__(self, task: Task) -> Steps:
        """See `base.Method`."""
        self.check(task.scorer)
        finished: list[Path] = yield from self.search(task)
        choice: Choice = task.choose(finished, self.how, self.aggregate)
        return choice

    def search(self, task: Task) -> Any:
        """The beam alone: a generator that returns the finished paths, all of them scored."""
        finished: list[Path] = []
        kept, temperatures = [task.root], temperatures_of(self.temperatures)
        for depth in range(self.depth):
            room = self.n - len(finished)
            count = min(len(kept), room)
            if not count:
                break
            heats = in_turn(temperatures, room)
            asks = [self.leg_behind(task, kept[i % count], temperature=heats[i // count]) for i in range(room)]
            paths = merged(task, (yield Grow(asks)))
            yield Score(paths)
            finished += [path for path in paths if path.is_final]
            alive = [path for path in paths if not path.is_final]
            if depth + 1 == self.depth or len(finished) >= self.n:
                break
            values = yield from self.values(task, alive, finished)
            best = sorted(alive, key=lambda path: (-values[path], path.number))
            kept = best[: max(1, (self.n - len(finished)) // self.m)]
        return finished

    def values(self, task: Task, alive: list[Path], finished: list[Path]) -> Any:
        """What each unfinished path is worth: its own number, or that of a greedy rollout."""
        if not self.lookahead or not alive:
            return {path: aggregate(path.scores, self.aggregate) for path in alive}
        asks = [self.leg_behind(task, path, temperature=0.0, legs=self.lookahead) for path in alive]
        rollouts = yield Grow(asks, keep=alive)
        yield Score(rollouts)
        finished += [path for path in rollouts if path.is_final][: self.n - len(finished)]
        return {path: aggregate(rollout.scores, self.aggregate) for path, rollout in zip(alive, rollouts)}

    def leg_behind(self, task: Task, path: Path, **changes: Any) -> Ask:
        """One leg behind a path."""
        most = min(self.leg * changes.get("legs", 1), task.limit)
        return task.ask(path, until=(self.until,) if self.until else (), max_new_tokens=most, **changes)


def merged(task: Task, paths: list[Path]) -> list[Path]:
    """The paths without equal siblings that are unfinished; of equal ones the first stays."""
    seen: dict[Any, Path] = {}
    for path in dict.fromkeys(paths):
        if path.is_final:
            seen[path] = path
            continue
        twin = seen.setdefault((path.parent, path.tokens), path)
        if twin is not path:
            path.fate = f"merged with {twin.number}"
            task.merged += 1
    return list(seen.values())


@dataclass(frozen=True)
class DVTS(Beam):
    """n / m subtrees that know nothing of each other, in each the best of m at every leg (search-and-learn).

    Better than a beam for large n and easy questions, and where the scorer can be fooled: a subtree that goes astray
    takes no place from the others.
    """

    def __call__(self, task: Task) -> Steps:
        """See `base.Method`."""
        self.check(task.scorer)
        one = Beam(self.m, self.m, self.lookahead, self.until, self.leg, self.depth, self.temperatures, self.aggregate)
        found = yield from together([one.search(task) for _ in range(self.n // self.m)])
        choice: Choice = task.choose([path for paths in found for path in paths], self.how, self.aggregate)
        return choice
