"""What all rules share: when a vote ends, and which answer it elects. Standard library only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from .ballots import OPEN, Ballot, Tally, Verdict, leader


@dataclass(frozen=True)
class Rule:
    """A stopping rule. Subclasses give `first_stop`; everything else follows from it.

    min_votes: parsed answers wanted before any stop
    """

    is_lossless: ClassVar[bool] = False
    spent: ClassVar[str] = "budget"  # the status of a question that the rule did not stop early
    spends_budget: ClassVar[bool] = False  # it never stops early, whatever the votes
    needs_equal_shares: ClassVar[bool] = False  # every temperature must have as many samples as the others
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
        head = tally.head()
        counted = self.first_stop(head, tally.plan)
        if counted is None:
            return self.settle(tally) if len(head) == tally.budget else OPEN
        answer, is_tie = self.choose(head[:counted])
        return Verdict(True, answer, True, counted, is_tie, self.because(head[:counted]))

    @property
    def needs(self) -> tuple[str, ...]:
        """The means of a sample that it decides by: "mean_logprob", "self_certainty", "entropy"."""
        return ()

    @property
    def watched_tokens(self) -> int:
        """Over how many tokens a sample's certainty is averaged while it is written; 0 does not look at it."""
        return 0

    def abort_below(self, tally: Tally, number: int) -> float | None:
        """The certainty, in nats, below which sample `number` is given up while it is written; None lets it end."""
        return None

    def settle(self, tally: Tally) -> Verdict:
        """The verdict once every sample of the plan has finished and the rule did not stop before."""
        answer, is_tie = self.choose(tally.head())
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
    """Raise ValueError for a setting below its least value."""
    for name, value in named.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def within(low: float, high: float, **named: float) -> None:
    """Raise ValueError for a setting that does not lie between two values."""
    for name, value in named.items():
        if not low < value < high:
            raise ValueError(f"{name} must lie between {low} and {high}, got {value}; both ends are excluded")
