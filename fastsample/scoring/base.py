"""What a scorer is: texts in, numbers out; and how the numbers of a text's legs become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import fsum, isfinite, prod
from numbers import Real
from typing import Any, Protocol

from ..token_stats import NO_MEANS, MeanStats

AGGREGATES = ("last", "min", "prod", "mean")


@dataclass(frozen=True)
class Leg:
    """A piece of a text that is grown piece by piece.

    text: its delimiter included; means: of its drawn tokens; is_drawn: whether there are any
    state: [hidden], behind the layer that the run's scorer reads at the last token; None without such a scorer
    """

    text: str
    means: MeanStats = NO_MEANS
    is_drawn: bool = True
    state: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Candidate:
    """A text, as a scorer sees it.

    question: what was asked; text: what was written; answer: in canonical form, None where none could be read
    tokens:   token ids, [] where the engine does not tell them; means: of the tokens' statistics, in nats
    legs:     the text in pieces, one or more; a text that was written at once is one leg
    """

    question: str
    text: str
    answer: str | None
    tokens: tuple[int, ...] = ()
    means: MeanStats = NO_MEANS
    legs: tuple[Leg, ...] = ()


class Scorer(Protocol):
    """Numbers for texts; higher is better.

    name: what a run's settings and a report call it

    It may have two further attributes, both False where it has none:
    is_process:     it scores unfinished texts too and returns a tuple for each candidate, one number a leg
    is_probability: all its numbers lie in [0, 1]; sums and products of them need that

    Or one that is None where it has none:
    layer:          the decoder layer, 1, 2, ..., whose hidden states it reads: `Leg.state`
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    def score(self, candidates: Sequence[Candidate]) -> Sequence[float] | Sequence[tuple[float, ...]]:
        """One finite number for each candidate (or a tuple), in their order; called with all that wait, of many
        questions."""
        ...


def is_process(scorer: Scorer) -> bool:
    """Whether it gives a number a leg, for unfinished texts too."""
    return bool(getattr(scorer, "is_process", False))


def is_probability(scorer: Scorer) -> bool:
    """Whether all its numbers lie in [0, 1]."""
    return bool(getattr(scorer, "is_probability", False))


def layer_read(scorer: Scorer | None) -> int | None:
    """The decoder layer whose hidden states it reads, or None."""
    return getattr(scorer, "layer", None)


def bound(scorer: Scorer, model: Any, tokenizer: Any) -> Scorer:
    """The scorer, with the run's model where it needs one. raises: ValueError where that cannot serve it"""
    bind = getattr(scorer, "bound", None)
    return scorer if bind is None else bind(model, tokenizer)


def numbers_of(scorer: Scorer, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
    """What the scorer says, looked at: a tuple for each candidate, of one number or of one a leg.

    raises: ValueError for a wrong count, for what is no number, is not finite, or breaks the scorer's own promise
    """
    said = scorer.score(candidates)
    if not isinstance(said, Sequence) or isinstance(said, str):
        kind = type(said).__name__
        raise ValueError(
            f"a scorer must return a list of numbers, {scorer.name} returned a {kind}; .tolist() makes one"
        )
    if len(said) != len(candidates):
        raise ValueError(
            f"a scorer must return a number for each of {len(candidates)} samples, {scorer.name} returned {len(said)}"
        )
    if not is_process(scorer):
        return [(_number(scorer, value),) for value in said]
    numbers = []
    for values, candidate in zip(said, candidates):
        if not isinstance(values, Sequence) or len(values) != len(candidate.legs):
            count = len(values) if isinstance(values, Sequence) else f"a {type(values).__name__}"
            raise ValueError(
                f"a process scorer must return a number for each leg, {scorer.name} returned {count} for "
                f"{len(candidate.legs)} legs"
            )
        numbers.append(tuple(_number(scorer, value) for value in values))
    return numbers


def _number(scorer: Scorer, value: object) -> float:
    if not isinstance(value, Real):
        kind = type(value).__name__
        raise ValueError(f"a scorer must return plain numbers, {scorer.name} returned a {kind}; float() makes one")
    number = float(value)
    if not isfinite(number):
        raise ValueError(f"a scorer must return finite numbers, {scorer.name} returned {number}")
    if is_probability(scorer) and not 0 <= number <= 1:
        raise ValueError(f"{scorer.name} promises numbers in [0, 1] and returned {number}")
    return number


def aggregate(numbers: Sequence[float], how: str = "last") -> float:
    """One number for a text from the numbers of its legs.

    last: for scorers trained to tell how it will end; min, prod: for judges of single steps; mean: neither short nor
          long texts are preferred. `prod` falls with every leg, and needs numbers in [0, 1]
    raises: ValueError for another word, or for no number at all
    """
    if how not in AGGREGATES:
        raise ValueError(f"aggregate must be one of {', '.join(AGGREGATES)}, got {how!r}")
    if not numbers:
        raise ValueError("a text without legs has no score; score it after its first leg")
    if how == "last":
        return numbers[-1]
    if how == "mean":
        return fsum(numbers) / len(numbers)
    return min(numbers) if how == "min" else prod(numbers)
