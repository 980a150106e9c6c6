"""Texts written leg by leg, and each leg continued to the end many times: what labels of legs are made of."""

from __future__ import annotations

from dataclasses import dataclass

from ..scoring.base import Scorer
from ..voting.rule import at_least
from .base import Choice, Grow, Steps
from .path import Path
from .task import Task


@dataclass(frozen=True)
class Rollouts:
    """`samples` texts, and n more ends behind each of their unfinished legs; all of them vote.

    n: rollouts a leg (8: Math-Shepherd, arXiv 2312.08935); until, leg, depth: as in `beam_search.Beam`

    `fastsample labels` makes a label of each leg: the share of its rollouts that end right.
    """

    samples: int = 4
    n: int = 8
    until: str = "\n\n"
    leg: int = 256
    depth: int = 40
    temperature: float = 0.8

    def __post_init__(self) -> None:
        at_least(1, samples=self.samples, n=self.n, leg=self.leg, depth=self.depth)
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"rollouts need a temperature above 0, got {self.temperature}: at 0 all say the same")

    def check(self, scorer: Scorer | None) -> None:
        """Any scorer will do, and none is needed."""

    def __call__(self, task: Task) -> Steps:
        """See `base.Method`."""
        until, most = (self.until,) if self.until else (), min(self.leg, task.limit)
        heads, inner, ends = [task.root] * self.samples, list[Path](), list[Path]()
        for depth in range(self.depth):
            is_last = depth + 1 == self.depth
            asks = [
                task.ask(
                    path,
                    temperature=self.temperature,
                    until=() if is_last else until,
                    max_new_tokens=task.limit if is_last else most,
                )
                for path in heads
            ]
            paths = yield Grow(asks, keep=inner)
            ends += [path for path in paths if path.is_final]
            heads = [path for path in paths if not path.is_final]
            inner += heads
            if not heads:
                break
        if inner:
            more = [task.ask(path, temperature=self.temperature) for path in inner for _ in range(self.n)]
            ends += yield Grow(more, ends=True)
        choice: Choice = task.choose(ends, "vote")
        return choice
