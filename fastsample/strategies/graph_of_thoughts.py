"""Adaptive graph of thoughts (arXiv 2502.05078): layers of thoughts, complex ones solved by graphs of their own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..voting.rule import at_least
from .base import Choice, Grow, Steps
from .path import Path
from .prompts import filled
from .task import Task
from .together import together

PLAN = (
    "Question:\n{question}\n\n{graph}List up to {nodes} thoughts that bring you closer to the answer, one a line, as "
    "'1. title: what to find out'. If what is above is enough, write 'done' and nothing else."
)
COMPLEX = "Question:\n{question}\n\n{graph}Is this a question of several steps: {thought}? Say yes or no."
SOLVE = "Question:\n{question}\n\n{graph}Work this out briefly: {thought}"
ANSWER = "Question:\n{question}\n\n{graph}Give the final answer after 'Answer:'."
TRIES = 2


@dataclass(frozen=True)
class AGoT:
    """depth: graphs inside graphs; layers, nodes: of each graph. For models that write lists: small ones do not.

    A list, or a yes or no, that cannot be read is asked for twice; then the layer is the last one, or the thought a
    simple one. tokens: of each text but the answer. The prompts of a graph share their beginning.
    """

    depth: int = 1
    layers: int = 3
    nodes: int = 3
    tokens: int = 256
    temperature: float = 0.7

    def __post_init__(self) -> None:
        at_least(0, depth=self.depth)
        at_least(1, layers=self.layers, nodes=self.nodes, tokens=self.tokens)

    def __call__(self, task: Task) -> Steps:
        """See `base.Method`."""
        path = yield from self._solve(task, task.question.text, "", self.depth, is_aside=False)
        choice: Choice = task.choose([path], "vote")
        return choice

    def _say(self, task: Task, prompt: str, *, is_aside: bool = True) -> Any:
        root = task.prompt(prompt, is_aside=is_aside)
        most = min(self.tokens, task.limit) if is_aside else task.limit
        (path,) = yield Grow([task.ask(root, temperature=self.temperature, max_new_tokens=most)], ends=True)
        return path

    def _solve(self, task: Task, question: str, heritage: str, depth: int, *, is_aside: bool) -> Any:
        """The path with the answer to one question."""
        known: list[str] = []
        for _ in range(self.layers):
            words = {"question": question, "graph": graph_of(heritage, known)}
            thoughts: list[str] | None = None
            for _ in range(TRIES):
                listed = yield from self._say(task, filled(PLAN, nodes=str(self.nodes), **words))
                thoughts = thoughts_of(listed.whole(), self.nodes)
                if thoughts is not None:
                    break
            if not thoughts:
                break
            known += yield from together([self._think(task, thought, depth, words) for thought in thoughts])
        words = {"question": question, "graph": graph_of(heritage, known)}
        path: Path = yield from self._say(task, filled(ANSWER, **words), is_aside=is_aside)
        return path

    def _think(self, task: Task, thought: str, depth: int, words: dict[str, str]) -> Any:
        """A thought with what came of it."""
        if depth > 0:
            for _ in range(TRIES):
                said = yield from self._say(task, filled(COMPLEX, thought=thought, **words))
                is_complex = yes_or_no(said.whole())
                if is_complex is not None:
                    break
            if is_complex:
                path = yield from self._solve(task, thought, words["graph"], depth - 1, is_aside=True)
                return f"{thought}\n{path.whole().strip()}"
        path = yield from self._say(task, filled(SOLVE, thought=thought, **words))
        return f"{thought}\n{path.whole().strip()}"


def graph_of(heritage: str, known: list[str]) -> str:
    """What has been worked out, in front of the next prompt's task."""
    listed = "".join(f"- {thought}\n" for thought in known)
    return heritage + (f"Worked out so far:\n{listed}\n" if listed else "")


def thoughts_of(text: str, most: int) -> list[str] | None:
    """The numbered lines of a list, [] for "done", None for what is neither."""
    found = re.findall(r"^\s*(?:\d+[.)]|[-*])\s+(\S.*?)\s*$", text, re.M)
    if found:
        return found[:most]
    return [] if re.match(r"\W*done\b", text, re.IGNORECASE) else None


def yes_or_no(text: str) -> bool | None:
    """The first yes or no; None without one."""
    found = re.search(r"\b(yes|no)\b", text, re.IGNORECASE)
    return None if found is None else found.group().lower() == "yes"
