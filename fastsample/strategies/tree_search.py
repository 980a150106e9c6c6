"""Monte Carlo tree search over legs: select by UCT or PUCT, expand, value, back up."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp, log, sqrt
from typing import Any

from ..scoring.base import Scorer, aggregate
from ..token_stats import MeanStats
from ..voting.rule import at_least
from .base import Choice, Grow, Score, Steps
from .choice import check_choice, needed
from .path import Path
from .task import Task

VALUES = ("prm", "rollout")


@dataclass(eq=False)
class Node:
    """A path in the tree. visits: 1 + those of its children; total: of the values below and of its own."""

    path: Path
    parent: Node | None = None
    visits: int = 0
    total: float = 0.0
    prior: float = 1.0
    children: list[Node] = field(default_factory=list)
    is_selected: bool = False  # in this round: counts as a visit of value 0, and is not selected again

    @property
    def is_closed(self) -> bool:
        """Final, or with nothing below that could be expanded."""
        return self.path.is_final or bool(self.children and all(child.is_closed for child in self.children))

    def line(self) -> list[Node]:
        """From itself up to the root."""
        return [self] if self.parent is None else [self, *self.parent.line()]


def uct(node: Node, c: float) -> float:
    """Q / N + c sqrt(ln N_parent / N)."""
    assert node.parent is not None
    return node.total / node.visits + c * sqrt(log(max(1, node.parent.visits)) / node.visits)


def puct(node: Node, c: float) -> float:
    """Q / N + c P sqrt(N_parent) / (1 + N)."""
    assert node.parent is not None
    return node.total / node.visits + c * node.prior * sqrt(node.parent.visits) / (1 + node.visits)


@dataclass(frozen=True)
class MCTS:
    """`rounds` times: `parallel` leaves are selected and get m children each, which are valued at once.

    value:    prm: the path's own number (of a process scorer); rollout: that of a continuation to the end, which is a
              candidate too (any scorer)
    c:        1.0 (llm-reasoners; rStar 1.4, openr 1.25); prior: 1 selects by PUCT, the prior being exp(mean
              log-probability of the leg) over its siblings
    parallel: a selected leaf counts as visited with value 0 until its value is in
    until, leg, depth, aggregate, how: see `beam_search.Beam`

    The choice is among all finished paths, never the most visited child. Without a good value it does not beat
    weighted best-of-n at equal tokens.
    """

    rounds: int = 32
    m: int = 4
    parallel: int = 4
    c: float = 1.0
    value: str = "prm"
    prior: int = 0
    until: str = "\n\n"
    leg: int = 256
    depth: int = 40
    temperature: float = 0.8
    aggregate: str = "last"
    how: str = "auto"

    def __post_init__(self) -> None:
        at_least(1, rounds=self.rounds, m=self.m, parallel=self.parallel, leg=self.leg, depth=self.depth)
        check_choice(self.how, self.aggregate, None)
        if self.value not in VALUES:
            raise ValueError(f"value must be prm or rollout, got {self.value!r}")

    def check(self, scorer: Scorer | None) -> None:
        """Raise ValueError for a scorer that does not fit."""
        check_choice(self.how, self.aggregate, needed("mcts", scorer, process=self.value == "prm"))

    def __call__(self, task: Task) -> Steps:
        """See `base.Method`."""
        self.check(task.scorer)
        root = Node(task.root, visits=1)
        finished: list[Path] = []
        open_leaves = [root]
        for _ in range(self.rounds):
            leaves = self.select(root)
            if not leaves:
                break
            kept = [leaf.path for leaf in open_leaves if leaf not in leaves and leaf.parent is not None]
            until, most = (self.until,) if self.until else (), min(self.leg, task.limit)
            asks = [
                task.ask(leaf.path, until=until, max_new_tokens=most, temperature=self.temperature)
                for leaf in leaves
                for _ in range(self.m)
            ]
            paths = yield Grow(asks, keep=kept)
            values = yield from self.values(task, list(dict.fromkeys(paths)), kept, finished)
            for place, leaf in enumerate(leaves):
                for path in dict.fromkeys(paths[place * self.m : (place + 1) * self.m]):
                    leaf.children.append(Node(path, leaf))
                give_priors(leaf.children)
                for child in leaf.children:
                    back_up(child, values[child.path])
            open_leaves = [leaf for leaf in open_leaves if leaf not in leaves]
            open_leaves += [c for leaf in leaves for c in leaf.children if not c.is_closed]
        choice: Choice = task.choose(finished, self.how, self.aggregate)
        return choice

    def select(self, root: Node) -> list[Node]:
        """Up to `parallel` different open leaves, each as if those before it had come to nothing."""
        leaves: list[Node] = []
        while len(leaves) < self.parallel:
            node: Node | None = root
            while node is not None and node.children:
                able = [child for child in node.children if self._has_room(child)]
                score = puct if self.prior else uct
                node = max(able, key=lambda n: (score(n, self.c), -n.path.number), default=None)
            if node is None or not self._has_room(node):
                break
            node.is_selected = True
            leaves.append(node)
            for above in node.line():
                above.visits += 1
        for leaf in leaves:
            leaf.is_selected = False
            for above in leaf.line():
                above.visits -= 1
        return leaves

    def _has_room(self, node: Node) -> bool:
        """Whether a leaf that may be expanded lies below, or is this."""
        if node.is_closed or node.is_selected or (not node.children and node.path.depth >= self.depth):
            return False
        return not node.children or any(self._has_room(child) for child in node.children)

    def values(self, task: Task, paths: list[Path], kept: list[Path], finished: list[Path]) -> Any:
        """The value of each new path; finished ones, and rollouts, become candidates."""
        finished += [path for path in paths if path.is_final]
        ends = {path: path for path in paths}
        if self.value == "rollout":
            alive = [path for path in paths if not path.is_final]
            if alive:
                asks = [task.ask(path, temperature=self.temperature) for path in alive]
                rollouts = yield Grow(asks, keep=[*kept, *alive])
                finished += [path for path in rollouts if path.is_final]
                ends |= dict(zip(alive, rollouts))
        yield Score(list(ends.values()))
        return {path: aggregate(end.scores, self.aggregate) for path, end in ends.items()}


def back_up(node: Node, value: float) -> None:
    """N += 1, Q += value, from a new node up to the root."""
    for above in node.line():
        above.visits += 1
        above.total += value


def give_priors(siblings: list[Node]) -> None:
    """exp(mean log-probability of the leg), adding up to 1: not the product, which prefers short legs."""
    means = [MeanStats.of(node.path.stats[node.path.appended :]).logprob or 0.0 for node in siblings]
    raised = [exp(mean) for mean in means]
    for node, prior in zip(siblings, raised):
        node.prior = prior / sum(raised)
