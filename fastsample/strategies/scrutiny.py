"""Sample, scrutinise and scale (arXiv 2502.01839): many answers, many verdicts of the model on each, ties compared."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from ..voting.rule import at_least
from .base import Choice, Grow, Steps
from .path import Path
from .prompts import filled
from .task import Task

CHECK = (
    "Question:\n{question}\n\nA proposed answer:\n{text}\n\n"
    "Check it: go through every step and look for a mistake. End with the line 'Verdict: yes' if the answer is right, "
    "or 'Verdict: no' if it is wrong."
)
COMPARE = (
    "Question:\n{question}\n\nFirst answer:\n{first}\n\nSecond answer:\n{second}\n\n"
    "They differ, so at most one is right. Find where they part and which step is wrong. End with the line "
    "'Verdict: first' or 'Verdict: second'."
)
MARGIN = 0.05  # of the best share of yes: so close counts as a tie (the paper's)
MOST = 3  # answers that are compared in pairs


@dataclass(frozen=True)
class Scrutinize:
    """n samples; `checks` verdicts on each; answers close to the best are compared in pairs, `ties` times each.

    tokens: of a verdict. The paper's 200, 50 and 100 were of a far larger model. A verdict that cannot be read does not
    count; all verdicts on one text share one prompt. The order of a pair is swapped in half of its comparisons.
    """

    n: int = 16
    checks: int = 8
    ties: int = 8
    tokens: int = 256
    temperature: float = 0.8

    def __post_init__(self) -> None:
        at_least(1, n=self.n, checks=self.checks, ties=self.ties, tokens=self.tokens)

    def __call__(self, task: Task) -> Steps:
        """See `base.Method`."""
        paths = yield Grow([task.ask(task.root, temperature=self.temperature) for _ in range(self.n)], ends=True)
        able = [path for path in paths if path.answer is not None]
        if not able:
            none: Choice = task.choose(paths, "vote")
            return none
        question = task.question.text
        roots = [task.prompt(filled(CHECK, question=question, text=path.whole())) for path in able]
        said = yield Grow([self._verdict(task, root) for root in roots for _ in range(self.checks)], ends=True)
        shares, unread = [], 0
        for place in range(len(able)):
            words = [word_of(s.whole()) for s in said[place * self.checks : (place + 1) * self.checks]]
            votes = [word == "yes" for word in words if word in ("yes", "no")]
            unread += len(words) - len(votes)
            shares.append(sum(votes) / len(votes) if votes else 0.0)
        rivals = self._rivals(able, shares)
        reason = f"{max(shares):.0%} of its verdicts are yes; {unread} could not be read"
        if len(rivals) > 1:
            wins, unread = yield from self._compare(task, rivals)
            best = max(range(len(rivals)), key=lambda place: (wins[place], -place))
            reason = f"{wins[best]:g} of {len(rivals) - 1} pairs won against close answers; {unread} could not be read"
            rivals = [rivals[best]]
        return Choice(rivals[0], rivals[0].answer, shares[able.index(rivals[0])], reason)

    def _rivals(self, able: list[Path], shares: list[float]) -> list[Path]:
        """The best path of each answer that is within the margin, best first."""
        close = [place for place in range(len(able)) if shares[place] >= max(shares) - MARGIN]
        close.sort(key=lambda place: (-shares[place], able[place].number))
        first: dict[Any, Path] = {}
        for place in close:
            first.setdefault(able[place].answer, able[place])
        return list(first.values())[:MOST]

    def _compare(self, task: Task, rivals: list[Path]) -> Any:
        """(pairs that each of them won, comparisons that could not be read); half a pair each where it is even."""
        pairs = list(combinations(range(len(rivals)), 2))
        asks, orders = [], []
        for a, b in pairs:
            for order, count in (((a, b), (self.ties + 1) // 2), ((b, a), self.ties // 2)):
                if count:
                    texts = {"first": rivals[order[0]].whole(), "second": rivals[order[1]].whole()}
                    root = task.prompt(filled(COMPARE, question=task.question.text, **texts))
                    asks += [self._verdict(task, root)] * count
                    orders += [(a, b, order)] * count
        said = yield Grow(asks, ends=True)
        won: dict[tuple[int, int], int] = dict.fromkeys(pairs, 0)
        unread = 0
        for (a, b, order), path in zip(orders, said):
            word = word_of(path.whole())
            if word in ("first", "second"):
                won[a, b] += 1 if order[word == "second"] == a else -1
            else:
                unread += 1
        wins = [0.0] * len(rivals)
        for (a, b), lead in won.items():
            wins[a] += 0.5 if lead == 0 else float(lead > 0)
            wins[b] += 0.5 if lead == 0 else float(lead < 0)
        return wins, unread

    def _verdict(self, task: Task, root: Path) -> Any:
        return task.ask(root, temperature=self.temperature, max_new_tokens=min(self.tokens, task.limit))


def word_of(text: str) -> str | None:
    """The word after the last "Verdict:", in small letters; None without one."""
    found = re.findall(r"verdict\W{0,5}(yes|no|first|second)\b", text[-2000:], re.IGNORECASE)
    return found[-1].lower() if found else None
