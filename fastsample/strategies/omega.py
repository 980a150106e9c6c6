"""Where a wrong text went wrong, by a binary search over its legs: labels for fewer rollouts (OmegaPRM, 2406.06592)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from ..scoring.base import Scorer, is_probability, is_process
from ..voting.rule import at_least
from .base import Choice, Grow, Score, Steps
from .choice import needed
from .path import Path
from .splitting import Splitter
from .task import Task


@dataclass(eq=False)
class _State:
    """A place in a text that was continued k times. worth: the share that ends right; visits: how often it was chosen;
    wrong: its wrong ends that have not been searched"""

    path: Path
    worth: float
    wrong: list[Path] = field(default_factory=list)
    visits: int = 0


@dataclass(frozen=True)
class Omega:
    """k texts; then, `searches` times, the wrong one that says most is cut in the middle and continued k times: if one
    ends right, the mistake lies behind, else before, and the half that holds it is cut again.

    k:      rollouts a place (8)
    until:  what ends a leg; a text of n legs takes log2(n) places, where `rollouts` takes n
    alpha, beta, length, c: which wrong text is next: alpha^(1 - worth) beta^(tokens / length) + c sqrt(all visits) /
            (1 + its place's visits), the paper's numbers

    The scorer says whether a whole text is right: `key`, exact:KEY, a function. `fastsample labels` makes a label of
    each place that was continued, and of no leg between.
    """

    k: int = 8
    searches: int = 4
    until: str = "\n\n"
    temperature: float = 0.8
    alpha: float = 0.5
    beta: float = 0.9
    length: float = 500.0
    c: float = 0.125

    def __post_init__(self) -> None:
        at_least(1, k=self.k, searches=self.searches)
        if not self.until:
            raise ValueError("omega cuts texts at the ends of their legs, got until=''; \\n is a line break")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"rollouts need a temperature above 0, got {self.temperature}: at 0 all say the same")
        if not (0 < self.alpha <= 1 and 0 < self.beta <= 1 and self.length > 0 and self.c >= 0):
            raise ValueError(
                f"alpha and beta must be in (0, 1], length above 0 and c at least 0, got {self.alpha}, {self.beta}, "
                f"{self.length} and {self.c}"
            )

    def check(self, scorer: Scorer | None) -> None:
        """Raise ValueError for a scorer that does not say of a whole text whether it is right."""
        scorer = needed("omega", scorer, process=False)
        if is_process(scorer) or not is_probability(scorer):
            raise ValueError(
                f"omega asks whether a whole text is right, and {scorer.name} gives other numbers; use key, exact:KEY "
                "or math:KEY"
            )

    def __call__(self, task: Task) -> Steps:
        """See `base.Method`."""
        self.check(task.scorer)
        split = Splitter(task.tokenizer, self.until)
        states: list[_State] = []
        ends: list[Path] = []
        yield from self._continue(task, task.root, states, ends)
        for _ in range(self.searches):
            found = self._next(states)
            if found is None:
                break
            state, text = found
            state.visits += 1
            state.wrong.remove(text)
            places = split.ends(text.tokens)
            right, wrong = 0, len(places)  # the mistake lies behind the first so many legs, and not behind so many
            while wrong - right > 1:
                middle = (right + wrong) // 2
                cut = task.cut(text, places[middle - 1])
                there = yield from self._continue(task, cut, states, ends, [text])
                right, wrong = (middle, wrong) if there.worth > 0 else (right, middle)
        choice: Choice = task.choose(ends, "vote")
        return choice

    def _continue(
        self, task: Task, path: Path, states: list[_State], ends: list[Path], more: Sequence[Path] = ()
    ) -> Generator[Any, Any, _State]:
        """Continue a path k times; returns its state."""
        keep = [*more, *(text for state in states for text in state.wrong)]
        paths = yield Grow([task.ask(path, temperature=self.temperature) for _ in range(self.k)], keep=keep)
        scores = yield Score(paths)
        is_right = [numbers[-1] >= 0.5 for numbers in scores]
        state = _State(path, sum(is_right) / self.k)
        if state.worth:  # behind a place from which nothing ends right there is no first mistake to be found
            state.wrong = [p for p, right in zip(paths, is_right) if not right]
        states.append(state)
        ends += paths
        return state

    def _next(self, states: Sequence[_State]) -> tuple[_State, Path] | None:
        """The wrong text to be searched next, with the place that it goes on from; ties to the earlier one."""
        visits = sum(state.visits for state in states)

        def value(found: tuple[_State, Path]) -> float:
            state, text = found
            q = self.alpha ** (1 - state.worth) * self.beta ** (len(text.tokens) / self.length)
            return q + self.c * sqrt(visits) / (1 + state.visits)

        able = [(state, text) for state in states for text in state.wrong]
        return max(able, key=value, default=None)
