"""What a request says to our draw inside vLLM: in `SamplingParams.extra_args`, over HTTP in `vllm_xargs`. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any

from ..base import Request

PREFIX = "fs_"
# Where vLLM changes a row behind our draw, or would draw from it again at its own price: what each of them must be.
ITS_OWN = {
    "temperature": 0.0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
}
LOW, HIGH = -(2**63), 2**63


@dataclass(frozen=True)
class Asked:
    """The parameters of `fastsample.sample` for one sample; its positions are counted by vLLM."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stream: int = 0

    @classmethod
    def of(cls, request: Request) -> Asked:
        """Of a request that has its stream."""
        return cls(**{name: getattr(request, name) for name in NAMES} | {"stream": request.stream or 0})

    @property
    def fields(self) -> dict[str, Any]:
        """As they are sent: fs_temperature and so on."""
        return {PREFIX + name: value for name, value in asdict(self).items()}


NAMES = tuple(f.name for f in fields(Asked))


def asked_in(sent: Mapping[str, Any] | None) -> Asked | None:
    """What the fields that were sent ask for; None where they ask for nothing of ours.

    raises: ValueError for a field that there is not, or one out of range, with its name
    """
    ours = {name.removeprefix(PREFIX): value for name, value in (sent or {}).items() if name.startswith(PREFIX)}
    if not ours:
        return None
    unknown = sorted(set(ours) - set(NAMES))
    if unknown:
        known = ", ".join(PREFIX + name for name in NAMES)
        raise ValueError(f"fastsample draws by {known}, got {PREFIX}{unknown[0]}; leave it out")
    for name, (kind, sentence, is_fine) in RULES.items():
        if name in ours and not (type(ours[name]) in kind and is_fine(ours[name])):
            raise ValueError(f"{PREFIX}{name} must be {sentence}, got {ours[name]!r}")
    return Asked(**ours)


NUMBER, WHOLE = (int, float), (int,)
RULES = {
    "temperature": (NUMBER, "a finite number of at least 0; 0 takes the likeliest", lambda t: isfinite(t) and t >= 0),
    "top_k": (WHOLE, "a whole number of at least 0; 0 keeps every token", lambda k: 0 <= k < 2**31),
    "top_p": (NUMBER, "in (0, 1]; 1 keeps every token", lambda p: 0 < p <= 1),
    "min_p": (NUMBER, "in [0, 1]; 0 keeps every token", lambda p: 0 <= p <= 1),
    "seed": (WHOLE, "a whole number of 64 bits", lambda n: LOW <= n < HIGH),
    "stream": (WHOLE, "a whole number of 64 bits", lambda n: LOW <= n < HIGH),
}
