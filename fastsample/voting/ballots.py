"""The votes of one question, by sample number, and the verdict on them. Standard library only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..token_stats import NO_MEANS, MeanStats


@dataclass(frozen=True)
class Ballot:
    """What one finished sample says; answer None (unparsable, or given up) never votes but counts as spent.

    number: the sample's place in the plan; means: of its tokens' statistics, in nats
    lowest: the lowest mean self-certainty of any window of its tokens (`weighted.Confidence`); score: a scorer's
    """

    number: int
    temperature: float
    answer: str | None
    means: MeanStats = NO_MEANS
    lowest: float | None = None
    score: float | None = None


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
        """Samples of the whole plan."""
        return len(self.plan)

    def add(self, ballot: Ballot) -> None:
        """Enter one vote; raises ValueError for a number outside the plan or one that has voted."""
        if not 0 <= ballot.number < self.budget:
            raise ValueError(f"sample numbers are 0 ... {self.budget - 1}, got {ballot.number}; plan more samples")
        if self.ballots[ballot.number] is not None:
            raise ValueError(f"sample {ballot.number} has voted already; every number votes once")
        self.ballots[ballot.number] = ballot
        self.finished += 1

    def head(self) -> list[Ballot]:
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
