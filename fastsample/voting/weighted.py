"""Rules that weigh their votes: the model's own certainty, a verifier's score, and DeepConf's early abort.

Weights are means over a sample's tokens and never sums: the sum of log-probabilities prefers short answers.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp
from typing import ClassVar, Literal, get_args

from ..token_stats import MeanStats
from .ballots import Ballot, Tally, leader
from .rule import Rule, at_least, within

Signal = Literal["mean_logprob", "self_certainty", "entropy", "score"]
SIGNALS = get_args(Signal)


def signal_of(ballot: Ballot, signal: Signal) -> float:
    """The ballot's value, larger = better (entropy changes sign); a missing value is the worst."""
    value = ballot.score if signal == "score" else getattr(ballot.means, signal.removeprefix("mean_"))
    if value is None:
        return -float("inf")
    return -value if signal == "entropy" else float(value)


@dataclass(frozen=True)
class Weighted(Rule):
    """A weighted vote over the whole budget: it never stops early, because every weight depends on all samples.

    by:    "mean_logprob" (sequence probability per token), "self_certainty", "entropy" or "score" (a verifier's)
    how:   "softmax" over the question's samples of value / scale, or "borda": the i-th best of N weighs (N - i)^power
    """

    spends_budget: ClassVar[bool] = True
    by: Signal = "self_certainty"
    how: Literal["softmax", "borda"] = "softmax"
    scale: float = 1.0
    power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by not in SIGNALS:
            raise ValueError(f"by must be one of {', '.join(SIGNALS)}, got {self.by!r}")
        if self.how not in ("softmax", "borda"):
            raise ValueError(f"how must be softmax or borda, got {self.how!r}")
        within(0.0, float("inf"), scale=self.scale, power=self.power)

    @property
    def needs(self) -> tuple[str, ...]:
        """See `Rule`."""
        return () if self.by == "score" else (self.by,)

    def weights(self, ballots: Sequence[Ballot]) -> list[float]:
        """One weight per ballot; those that cannot vote weigh 0 and take no part in the softmax or the ranking."""
        values = [signal_of(b, self.by) if b.answer is not None else -float("inf") for b in ballots]
        voting = [n for n, b in enumerate(ballots) if b.answer is not None]
        if not voting:
            return [0.0] * len(ballots)
        weights = [0.0] * len(ballots)
        if self.how == "softmax":
            top = max(values)
            for n in voting:
                weights[n] = 1.0 if top == -float("inf") else exp((values[n] - top) / self.scale)
        else:
            for n in voting:
                # Equal values share a place, so that the numbering of the samples decides nothing.
                below = sum(values[m] < values[n] for m in voting)
                level = sum(values[m] == values[n] for m in voting)
                weights[n] = (below + (level + 1) / 2) ** self.power
        total = sum(weights)
        return [w / total for w in weights]

    def choose(self, ballots: Sequence[Ballot]) -> tuple[str | None, bool]:
        """See `Rule`."""
        return leader(weigh(ballots, self.weights(ballots)))


def weigh(ballots: Sequence[Ballot], weights: Sequence[float]) -> dict[str, float]:
    """Weight per answer, in the order in which the answers first appear."""
    totals: dict[str, float] = {}
    for ballot, weight in zip(ballots, weights):
        if ballot.answer is not None:
            totals[ballot.answer] = totals.get(ballot.answer, 0.0) + weight
    return totals


@dataclass(frozen=True)
class Confidence(Rule):
    """DeepConf online (arXiv 2508.15260): weak traces are aborted while they are written; the rest vote by certainty.

    The first `warmup` samples run to their end. The lowest mean certainty over any `window` of a sample's tokens is
    its weakest spot; a later sample is aborted as soon as it falls below the spot that the best `keep` share of the
    warm-up reached. Votes weigh their mean certainty; stop when the leader has `share` of all weight.

    DeepConf's token confidence, the mean of -log p over its top k tokens, is taken here over the whole vocabulary:
    self-certainty plus the constant log V, which the sampler returns from the pass that drew the token.
    """

    warmup: int = 8
    keep: float = 0.9
    window: int = 32
    share: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, warmup=self.warmup, window=self.window)
        within(0.0, 1.0, keep=self.keep)
        within(0.5, 1.0, share=self.share)

    @property
    def needs(self) -> tuple[str, ...]:
        """See `Rule`."""
        return ("self_certainty",)

    @property
    def watched_tokens(self) -> int:
        """See `Rule`."""
        return self.window

    def abort_below(self, tally: Tally, number: int) -> float | None:
        """See `Rule`; nothing is given up before the warm-up has finished, nor a sample of it."""
        return None if number < self.warmup else self.threshold(tally)

    def threshold(self, tally: Tally) -> float | None:
        """The weakest spot that the best of the warm-up reached, in nats; None until the warm-up has finished."""
        warm = tally.ballots[: self.warmup]
        if any(b is None for b in warm) or len(warm) < self.warmup:
            return None
        spots = sorted((b.lowest for b in warm if b is not None and b.lowest is not None), reverse=True)
        return spots[min(len(spots), max(1, ceil(self.keep * len(spots)))) - 1] if spots else None

    def first_stop(self, ballots: Sequence[Ballot], plan: Sequence[float]) -> int | None:
        """See `Rule`."""
        totals: dict[str, float] = {}
        votes = 0
        weight = 0.0
        for n, ballot in enumerate(ballots, 1):
            if ballot.answer is not None:
                votes += 1
                own = _weight(ballot)
                totals[ballot.answer] = totals.get(ballot.answer, 0.0) + own
                weight += own
            enough = n >= min(self.warmup, len(plan)) and votes >= self.min_votes and weight > 0
            if enough and max(totals.values()) >= self.share * weight:
                return n
        return None

    def choose(self, ballots: Sequence[Ballot]) -> tuple[str | None, bool]:
        """See `Rule`."""
        return leader(weigh(ballots, [_weight(b) for b in ballots]))

    def reach(self, tally: Tally) -> int:
        """The warm-up first; then as far as a vote that went on for the leader would have to go."""
        if any(b is None for b in tally.ballots[: self.warmup]):
            return min(self.warmup, tally.budget)
        head, _ = leader(self._totals(tally))
        return self.first_stop(self._imagined(tally, head or "?"), tally.plan) or tally.budget

    def _totals(self, tally: Tally) -> dict[str, float]:
        done = [b for b in tally.ballots if b is not None]
        return weigh(done, [_weight(b) for b in done])

    def _imagined(self, tally: Tally, answer: str) -> list[Ballot]:
        done = [_weight(b) for b in tally.ballots if b is not None and b.answer is not None]
        mean = sum(done) / len(done) if done else 1.0
        plan = tally.plan
        return [b or Ballot(n, plan[n], answer, MeanStats(self_certainty=mean)) for n, b in enumerate(tally.ballots)]


def _weight(ballot: Ballot) -> float:
    return max(0.0, ballot.means.self_certainty or 0.0)
