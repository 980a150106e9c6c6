"""Scorers that cost nothing: the numbers that the draw itself has left, leg by leg."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import Any, ClassVar

from ..token_stats import MeanStats
from .base import Candidate, Scorer, bound, is_process, layer_read, numbers_of

SIGNALS = ("logprob", "raw_logprob", "self_certainty", "entropy")


@dataclass(frozen=True)
class Signal:
    """A mean over the tokens of each leg, in nats: never a sum, which would prefer short texts.

    by: logprob (under what was drawn from), raw_logprob (under the model's own row), self_certainty, or entropy, which
        is turned round: the smaller, the better. A leg without drawn tokens gets what the leg before it got, or 0.
    """

    by: str = "raw_logprob"
    is_process: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.by not in SIGNALS:
            raise ValueError(f"a signal is one of {', '.join(SIGNALS)}, got {self.by!r}")

    @property
    def needs(self) -> tuple[str, ...]:
        """What an engine must tell of every token, in the names of `voting.rule.Rule.needs`."""
        return ("mean_logprob",) if self.by.endswith("logprob") else (self.by,)

    @property
    def name(self) -> str:
        """signal:raw_logprob, ..."""
        return f"signal:{self.by}"

    def score(self, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        """See `Scorer`."""
        return [self._legs([leg.means for leg in c.legs]) for c in candidates]

    def _legs(self, means: Sequence[MeanStats]) -> tuple[float, ...]:
        numbers: list[float] = []
        for mean in means:
            value = getattr(mean, self.by)
            before = numbers[-1] if numbers else 0.0
            numbers.append(before if value is None else -value if self.by == "entropy" else value)
        return tuple(numbers)


@dataclass(frozen=True)
class Sigmoid:
    """Another scorer's numbers put into (0, 1), where sums, products and particles need that."""

    scorer: Scorer
    is_probability: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[str, ...]:
        """As the other one."""
        return tuple(getattr(self.scorer, "needs", ()))

    @property
    def layer(self) -> int | None:
        """As the other one."""
        return layer_read(self.scorer)

    def bound(self, model: Any, tokenizer: Any) -> Sigmoid:
        """Of the other one, with the run's model."""
        return Sigmoid(bound(self.scorer, model, tokenizer))

    @property
    def name(self) -> str:
        """sigmoid:NAME"""
        return f"sigmoid:{self.scorer.name}"

    @property
    def is_process(self) -> bool:
        """As the other one."""
        return is_process(self.scorer)

    def score(self, candidates: Sequence[Candidate]) -> list[float] | list[tuple[float, ...]]:
        """See `Scorer`."""
        squeezed = [tuple(map(_sigmoid, numbers)) for numbers in numbers_of(self.scorer, candidates)]
        return squeezed if self.is_process else [numbers[0] for numbers in squeezed]


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))
