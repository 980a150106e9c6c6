"""Collective Monte Carlo tree search (CoMCTS, arXiv 2412.18319): several policies continue a node, one judge prunes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import log, sqrt

from ..scoring.base import Scorer, is_probability
from ..voting.rule import at_least
from .base import Choice, Grow, Score, Steps
from .choice import check_choice, needed
from .path import Path
from .plan import temperatures_of
from .task import Task


@dataclass(eq=False)
class Node:
    """value: the mean of the judge's numbers in [-1, 1] below it, and of its own; visits: how many they are."""

    path: Path
    parent: Node | None = None
    value: float = 0.0
    visits: int = 0
    children: list[Node] = field(default_factory=list)


def new_value(parent: Node, gained: list[float]) -> tuple[float, int]:
    """(V, N) after back-up: V <- (N V + sum of new) / (N + new)."""
    visits = parent.visits + len(gained)
    return ((parent.visits * parent.value + sum(gained)) / visits if visits else 0.0), visits


@dataclass(frozen=True)
class CoMCTS:
    """`rounds` times: the open node of the largest UCB is continued to the end by every policy, leg by leg.

    temperatures: one policy each ("0.4/0.8/1.2")
    threshold:    a leg that is judged below is dropped, with what follows it; the judge's numbers s in [0, 1] become
                  2 s - 1, in [-1, 1]
    c:            of V + c sqrt(log(N_parent) / (1 + N)) (Mulberry: 0.5, and 20 rounds)
    """

    rounds: int = 20
    temperatures: str = "0.4/0.8/1.2"
    threshold: float = 0.0
    c: float = 0.5
    until: str = "\n\n"
    leg: int = 256
    depth: int = 40
    how: str = "auto"

    def __post_init__(self) -> None:
        at_least(1, rounds=self.rounds, leg=self.leg, depth=self.depth)
        temperatures_of(self.temperatures)
        check_choice(self.how, "last", None)

    def check(self, scorer: Scorer | None) -> None:
        """Raise ValueError for a scorer that does not fit."""
        check_choice(self.how, "last", needed("comcts", scorer, process=True))
        if scorer is not None and not is_probability(scorer):
            raise ValueError(
                f"comcts needs scores in [0, 1], {scorer.name} gives any number; use sigmoid:{scorer.name}"
            )

    def __call__(self, task: Task) -> Steps:
        """See `base.Method`."""
        self.check(task.scorer)
        root = Node(task.root)
        nodes = [root]
        finished: list[Path] = []
        until, most = (self.until,) if self.until else (), min(self.leg, task.limit)
        for _ in range(self.rounds):
            able = [node for node in nodes if not node.path.is_final and node.path.depth < self.depth]
            if not able:
                break
            start = max(able, key=lambda node: (self._ucb(node), -node.path.number))
            heads = [(start, t) for t in temperatures_of(self.temperatures)]
            while heads:
                kept = [node.path for node in able if node.parent is not None]
                asks = [task.ask(n.path, until=until, max_new_tokens=most, temperature=t) for n, t in heads]
                paths = yield Grow(asks, keep=kept)
                yield Score(list(dict.fromkeys(paths)))
                going = []
                for (node, temperature), path in zip(heads, paths):
                    worth = 2 * path.scores[-1] - 1
                    if worth < self.threshold or any(child.path is path for child in node.children):
                        continue
                    child = Node(path, node)
                    node.children.append(child)
                    nodes.append(child)
                    self._back_up(child, worth)
                    if path.is_final:
                        finished.append(path)
                    elif path.depth < self.depth:
                        able.append(child)
                        going.append((child, temperature))
                heads = going
        choice: Choice = task.choose(finished, self.how)
        if finished or len(nodes) > 1:
            return choice
        return replace(choice, reason=f"the judge cut off every leg: all are below {self.threshold:g}, of -1 to 1")

    def _ucb(self, node: Node) -> float:
        if node.parent is None:
            return node.value + self.c * sqrt(log(1 + node.visits) / (1 + node.visits))
        return node.value + self.c * sqrt(log(max(1, node.parent.visits)) / (1 + node.visits))

    def _back_up(self, node: Node, worth: float) -> None:
        above: Node | None = node
        while above is not None:
            above.value, above.visits = new_value(above, [worth])
            above = above.parent
