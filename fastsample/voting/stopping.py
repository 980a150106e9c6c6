"""Votes of one question and the rules that say when enough of them are in.

A sample has a number, fixed before anything is drawn, and every rule here reads the votes in the order of these
numbers. Who finishes first therefore decides nothing: the answer is the one that drawing the samples one after the
other would have given, whatever their lengths, the batch or the machine. A rule may stop past a sample that is still
being written only where nothing that sample could say would change the answer.

Two kinds: `Decided` is lossless (never another answer than the full vote's), every other stopping rule is lossy. Any
of them is about the most frequent answer, not about the right one.

Standard library only. Rules that weigh their votes are in `weighted`; `registry` knows all of them by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb, fsum
from typing import ClassVar

from .ballots import OPEN, Ballot, Tally, Verdict, leader
from .rule import Rule, at_least, within


@dataclass(frozen=True)
class Majority(Rule):
    """Never stops before the whole budget is spent: the full vote, against which the other rules are measured."""

    spends_budget: ClassVar[bool] = True


@dataclass(frozen=True)
class Decided(Rule):
    """Lossless: stops once no vote still to come can change the full vote's answer, ties included."""

    is_lossless: ClassVar[bool] = True

    def judge(self, tally: Tally) -> Verdict:
        """See `Rule`."""
        counts = tally.counts()
        answer, _ = leader(counts)
        missing = tally.budget - tally.finished
        if missing == 0:
            return self.settle(tally)
        if answer is None or sum(counts.values()) < self.min_votes:
            return OPEN
        first: dict[str, int] = {}
        for ballot in tally.ballots:
            if ballot is not None and ballot.answer is not None:
                first.setdefault(ballot.answer, ballot.number)
        hole = tally.ballots.index(None)
        # A rival with every missing vote must stay behind, or draw level and still have been given later.
        rivals = [(votes, first[rival]) for rival, votes in counts.items() if rival != answer] + [(0, tally.budget)]
        for votes, since in rivals:
            lead = counts[answer] - votes - missing
            if lead < 0 or (lead == 0 and min(since, hole) < first[answer]):
                return OPEN
        return Verdict(True, answer, True, tally.budget, False, f"{self}: no rival can catch up in {missing} samples")

    def reach(self, tally: Tally) -> int:
        """See `Rule`."""
        top = [votes for _, votes in tally.counts().most_common(2)] + [0, 0]
        missing = [n for n, ballot in enumerate(tally.ballots) if ballot is None]
        # With x further votes for the leader, top[0] + x >= top[1] + (missing - x).
        further = max(1, -(-(top[1] + len(missing) - top[0]) // 2))
        return missing[min(further, len(missing)) - 1] + 1 if missing else tally.budget


@dataclass(frozen=True)
class PairRule(Rule):
    """Rules on the counts alone: stop when `is_met(leader, runner-up, all others)`.

    `is_met` must never turn false when the leader gains a vote or another answer loses one; `judge` relies on it to
    look past samples that are still being written.
    """

    def is_met(self, a: int, b: int, others: int) -> bool:
        """Whether the rule stops with `a` votes for the leader, `b` for the runner-up and `others` for all the rest."""
        raise NotImplementedError

    def first_stop(self, ballots: Sequence[Ballot], plan: Sequence[float]) -> int | None:
        """See `Rule`."""
        counts: Counter[str] = Counter()
        for n, ballot in enumerate(ballots, 1):
            if ballot.answer is not None:
                counts[ballot.answer] += 1
                if self._is_met(counts):
                    return n
        return None

    def _is_met(self, counts: Counter[str], holes: int = 0) -> bool:
        a, b, others = _podium(counts.values())
        votes = a + b + others
        if votes < self.min_votes or not a:
            return False
        return self.is_met(a, b + holes, others) and (not holes or self.is_met(a, b, others + holes))

    def judge(self, tally: Tally) -> Verdict:
        """See `Rule`."""
        counts: Counter[str] = Counter()
        holes = 0
        refused: set[str] = set()
        for n, ballot in enumerate(tally.ballots, 1):
            if ballot is None:
                holes += 1
            elif ballot.answer is not None:
                counts[ballot.answer] += 1
            if not counts or 2 * holes >= n:
                continue
            answer, _ = leader(counts)
            assert answer is not None
            if answer in refused or not self._is_met(counts, holes):
                continue
            if holes and not self._is_safe(tally.ballots[:n], answer):
                refused.add(answer)
                continue
            seen = [b for b in tally.ballots[:n] if b is not None]
            return Verdict(True, answer, True, n, False, self.because(seen))
        return self.settle(tally) if tally.finished == tally.budget else OPEN

    def _is_safe(self, ballots: Iterable[Ballot | None], answer: str) -> bool:
        """Whether no rival could have been the first to stop, had every unfinished sample voted for it."""
        rivals: Counter[str] = Counter()
        votes = holes = 0
        for ballot in ballots:
            if ballot is None:
                holes += 1
            elif ballot.answer == answer:
                votes += 1
            elif ballot.answer is not None:
                rivals[ballot.answer] += 1
            best, second, rest = _podium(rivals.values())
            behind, others = max(votes, second), rest + min(votes, second)
            total = best + holes + behind + others
            if best + holes and total >= self.min_votes and self.is_met(best + holes, behind, others):
                return False
        return True


def _podium(counts: Iterable[int]) -> tuple[int, int, int]:
    """(most, second most, all the rest together)."""
    a = b = rest = 0
    for count in counts:
        if count > a:
            a, b, rest = count, a, rest + b
        elif count > b:
            b, rest = count, rest + b
        else:
            rest += count
    return a, b, rest


@dataclass(frozen=True)
class Beta(PairRule):
    """Adaptive-Consistency (arXiv 2305.11860): the leader is the more frequent of the two with this confidence."""

    confidence: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        within(0.5, 1.0, confidence=self.confidence)

    def is_met(self, a: int, b: int, others: int) -> bool:
        """See `PairRule`."""
        return a > b and _beta(a, b) >= self.confidence


@lru_cache(maxsize=65536)
def _beta(a: int, b: int) -> float:
    """P(Bin(a + b + 1, 1/2) <= a): the posterior that the leader's share of the two exceeds one half."""
    n = a + b + 1
    return 1 - sum(comb(n, k) for k in range(b + 1)) / 2**n


@dataclass(frozen=True)
class Ahead(PairRule):
    """The leader is k votes ahead of the runner-up: Wald's sequential test (arXiv 2503.17587)."""

    k: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, k=self.k)

    def is_met(self, a: int, b: int, others: int) -> bool:
        """See `PairRule`."""
        return a - b >= self.k


@dataclass(frozen=True)
class Certified(PairRule):
    """Martingale majority certificate (arXiv 2510.17472): e-values of the leader against the runner-up and against
    all other answers lumped both reach 1/delta.

    For any one wrong answer the chance of ever being certified is at most delta, whenever one looks (Ville): its
    count against the true mode's gives an e-value at least as large as the smaller of the two. The e-value mixes
    fixed chances; one fitted to the votes and re-applied to them would be no martingale.
    """

    delta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        within(0.0, 1.0, delta=self.delta)

    def is_met(self, a: int, b: int, others: int) -> bool:
        """See `PairRule`."""
        return min(e_value(a, b), e_value(a, others)) >= 1 / self.delta


@lru_cache(maxsize=65536)
def e_value(successes: int, failures: int) -> float:
    """Mixture over q = 0.55, 0.60 ... 0.95 of 2^(s + f) q^s (1 - q)^f: evidence against a chance of at most 1/2."""
    grid = [0.55 + 0.05 * i for i in range(9)]
    return fsum((2 * q) ** successes * (2 * (1 - q)) ** failures for q in grid) / len(grid)


@dataclass(frozen=True)
class Window(Rule):
    """Early-stopping self-consistency (arXiv 2401.10480): stop when a whole window of `size` votes agrees."""

    size: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(2, size=self.size)

    def first_stop(self, ballots: Sequence[Ballot], plan: Sequence[float]) -> int | None:
        """See `Rule`."""
        window: list[str] = []
        votes = 0
        for n, ballot in enumerate(ballots, 1):
            if ballot.answer is None:
                continue
            votes += 1
            window.append(ballot.answer)
            if len(window) == self.size:
                if len(set(window)) == 1 and votes >= self.min_votes:
                    return n
                window.clear()
        return None

    def choose(self, ballots: Sequence[Ballot]) -> tuple[str | None, bool]:
        """Early, the unanimous window's answer; with the budget spent, the full vote's."""
        votes = [b.answer for b in ballots if b.answer is not None]
        if self.first_stop(ballots, ()) == len(ballots):
            return votes[-1], False
        return super().choose(ballots)


@dataclass(frozen=True)
class TwoStage(Rule):
    """Multi-temperature voting (arXiv 2510.02611): stop when every temperature is confident and all agree.

    A temperature is confident when its most frequent answer has at least `share` of its votes; judged after every
    complete round (one sample per temperature), the first time after `first` of them. Temperature 0 is drawn once and
    confident with its one vote. A temperature without votes is not confident. A question that never gets there is hard.

    share: 5 samples at 0.8 tolerate one dissent, 4 demand unanimity
    """

    spent: ClassVar[str] = "hard"
    needs_equal_shares: ClassVar[bool] = True
    share: float = 0.8
    first: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, first=self.first)
        if not 0.5 < self.share <= 1:
            raise ValueError(f"share must be in (0.5, 1], got {self.share}; half of the votes is no majority")

    def first_stop(self, ballots: Sequence[Ballot], plan: Sequence[float]) -> int | None:
        """See `Rule`."""
        votes: dict[float, Counter[str]] = {}
        drawn: Counter[float] = Counter()
        temperatures = set(plan)
        warm = temperatures - {0}
        for n, ballot in enumerate(ballots, 1):
            drawn[ballot.temperature] += 1
            mine = votes.setdefault(ballot.temperature, Counter())
            if ballot.answer is not None:
                mine[ballot.answer] += 1
            rounds = {drawn[t] for t in warm}
            if n < len(temperatures) or len(rounds) > 1 or min(rounds, default=self.first) < self.first:
                continue
            if sum(sum(v.values()) for v in votes.values()) >= self.min_votes and self._is_easy(votes):
                return n
        return None

    def _is_easy(self, votes: dict[float, Counter[str]]) -> bool:
        heads = set()
        for mine in votes.values():
            head, _ = leader(mine)
            if head is None or mine[head] < self.share * sum(mine.values()) - 1e-9:
                return False
            heads.add(head)
        return len(heads) == 1
