"""What a request changes in the logits of its sample, as numbers. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Penalties:
    """Penalties and biases of one sample, by the formulas of docs/the_draw.md.

    repetition: above 0; logits of tokens in the prompt and the sample are divided by it where above 0, else multiplied
    frequency:  subtracted for each time that the sample has the token; presence: subtracted once
    logit_bias: (token id, what is added to its logit); a dictionary becomes such pairs; -inf forbids

    raises: ValueError or TypeError for a number out of range
    """

    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        for name in ("repetition", "frequency", "presence"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name}_penalty must be a number, got {value!r}; one for each sample of a request")
            if not math.isfinite(value) or (name == "repetition" and value <= 0):
                rule, off = ("above 0 and finite", 1) if name == "repetition" else ("finite", 0)
                raise ValueError(f"{name}_penalty must be {rule}, got {value}; {off} changes nothing")
        object.__setattr__(self, "logit_bias", _pairs(self.logit_bias))

    @property
    def are_any(self) -> bool:
        """Whether anything is changed."""
        return self != NO_PENALTIES

    def to_json(self) -> dict[str, Any]:
        """As `Penalties(**values)` takes them, without those that change nothing."""
        pairs = [[token, bias if bias > -math.inf else "-inf"] for token, bias in self.logit_bias]  # JSON knows no -inf
        changed = {name: getattr(self, name) for name in ("repetition", "frequency", "presence")}
        values: dict[str, Any] = {name: v for name, v in changed.items() if v != getattr(NO_PENALTIES, name)}
        return values | ({"logit_bias": pairs} if pairs else {})


def _pairs(given: Any) -> tuple[tuple[int, float], ...]:
    if given is None:
        return ()
    try:
        pairs = [
            (token, -math.inf if bias == "-inf" else bias)
            for token, bias in (given.items() if isinstance(given, Mapping) else given)
        ]
    except (TypeError, ValueError):
        raise TypeError(f"logit_bias must be a dictionary {{token id: bias}}, got {str(given)[:60]}") from None
    for token, bias in pairs:
        if type(token) is not int:
            raise TypeError(f"logit_bias must be for token ids, got {token!r}; call the tokenizer first")
        if token < 0:
            raise ValueError(f"logit_bias must be for token ids of the vocabulary, got {token}; leave it out")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not bias < math.inf:
            raise ValueError(f"logit_bias must be finite, or -inf to forbid a token, got {bias!r} for token {token}")
    return tuple(sorted((token, float(bias)) for token, bias in dict(pairs).items()))


NO_PENALTIES = Penalties()
