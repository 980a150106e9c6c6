"""The votes of one question, by sample number, the verdict on them, and what all rules share. Standard library only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

NAN = float("nan")


@dataclass(frozen=True)
class Ballot:
    """What one finished sample says; answer None (unparsable, or given up) never votes but counts as spent.

    number: the sample's place in the plan; mean_logprob, entropy, self_certainty: means over its tokens, in nats
    lowest: the lowest mean self-certainty of any window of its tokens (`weighing.Confidence`); score: a verifier's
    """

    number: int
    temperature: float
    answer: str | None
    mean_logprob: float = NAN
    entropy: float = NAN
    self_certainty: float = NAN
    lowest: float = NAN
    score: float = NAN


@dataclass(frozen=True)
class Verdict:
    """What a rule says of a tally.

    is_final: stop; is_met: because the rule's own condition holds, not because the budget is spent
    counted:  the verdict rests on the samples with a smaller number
    """

    is_final: bool
    answer: str | None = None
    is_met: bool = False
    counted: int = 0
    is_tie: bool = False
    reason: str = ""


OPEN = Verdict(is_final=False)


class Tally:
    """The votes of one question by sample number; plan[n] is the temperature of sample n and len(plan) the budget."""

    def __init__(self, plan: Sequence[float]) -> None:
        self.plan = tuple(plan)
        self.ballots: list[Ballot | None] = [None] * len(self.plan)
        self.finished = 0

    @property
    def budget(self) -> int:
        return len(self.plan)

    def add(self, ballot: Ballot) -> None:
        """Enter one vote; raises ValueError for a number outside the plan or one that has voted."""
        if not 0 <= ballot.number < self.budget:
            raise ValueError(f"sample numbers are 0 ... {self.budget - 1}, got {ballot.number}; plan more samples")
        if self.ballots[ballot.number] is not None:
            raise ValueError(f"sample {ballot.number} has voted already; every number votes once")
        self.ballots[ballot.number] = ballot
        self.finished += 1

    def prefix(self) -> list[Ballot]:
        """The finished samples before the first unfinished one."""
        head: list[Ballot] = []
        for ballot in self.ballots:
            if ballot is None:
                break
            head.append(ballot)
        return head

    def counts(self, counted: int | None = None) -> Counter[str]:
        """Votes per answer among the first `counted` samples, in the order in which the answers first appear."""
        return Counter(b.answer for b in self.ballots[:counted] if b is not None and b.answer is not None)


def leader(weights: Mapping[str, float]) -> tuple[str | None, bool]:
    """(the heaviest answer, whether it shares that place); ties go to the answer given first."""
    if not weights:
        return None, False
    most = max(weights.values())
    heads = [answer for answer, weight in weights.items() if weight == most]
    return heads[0], len(heads) > 1


@dataclass(frozen=True)
class Rule:
    """A stopping rule. Subclasses give `first_stop`; everything else follows from it.

    min_votes: parsed answers wanted before any stop
    """

    is_lossless: ClassVar[bool] = False
    spent: ClassVar[str] = "budget"  # the status of a question that the rule did not stop early
    watches: ClassVar[bool] = False  # whether `threshold` and a window of certainties abort samples while written
    min_votes: int = 1

    def __post_init__(self) -> None:
        at_least(1, min_votes=self.min_votes)

    def first_stop(self, ballots: Sequence[Ballot], plan: Sequence[float]) -> int | None:
        """How many of these samples, the plan's first, it takes for the rule to stop; None where they are too few."""
        return None

    def choose(self, ballots: Sequence[Ballot]) -> tuple[str | None, bool]:
        """(the answer that these ballots elect, whether it is tied)."""
        return leader(Counter(b.answer for b in ballots if b.answer is not None))

    def judge(self, tally: Tally) -> Verdict:
        """The verdict on what is in so far; final at the latest when every sample of the plan has finished."""
        head = tally.prefix()
        counted = self.first_stop(head, tally.plan)
        if counted is None:
            return self.settle(tally) if len(head) == tally.budget else OPEN
        answer, is_tie = self.choose(head[:counted])
        return Verdict(True, answer, True, counted, is_tie, self.because(head[:counted]))

    def threshold(self, tally: Tally) -> float | None:
        """The certainty, in nats, below which a sample is aborted while it is written; None aborts nothing."""
        return None

    def settle(self, tally: Tally) -> Verdict:
        """The verdict once every sample of the plan has finished and the rule did not stop before."""
        answer, is_tie = self.choose(tally.prefix())
        return Verdict(True, answer, False, tally.budget, is_tie, "the whole budget is spent")

    def because(self, ballots: Sequence[Ballot]) -> str:
        """One sentence for a person: why the rule stopped on these ballots."""
        top = Counter(b.answer for b in ballots if b.answer is not None).most_common(2)
        return f"{self}: " + " against ".join(str(votes) for _, votes in [*top, ("", 0)][:2])

    def reach(self, tally: Tally) -> int:
        """How many samples must be started for the rule to stop if all that is missing went to the leader."""
        head, _ = leader(tally.counts())
        guess = head if head is not None else "?"
        return self.first_stop(self._imagined(tally, guess), tally.plan) or tally.budget

    def _imagined(self, tally: Tally, answer: str) -> list[Ballot]:
        return [b or Ballot(n, tally.plan[n], answer) for n, b in enumerate(tally.ballots)]


def at_least(least: int, **named: int) -> None:
    for name, value in named.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def within(low: float, high: float, **named: float) -> None:
    for name, value in named.items():
        if not low < value < high:
            raise ValueError(f"{name} must lie between {low} and {high}, got {value}; both ends are excluded")
