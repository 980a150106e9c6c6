"""Which samples a question gets, by number, and the name of every sample's randomness."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from math import inf, isnan, nan

from ..voting.temperatures import EVEN_ROUNDS

UNDECIDED = (nan, -1)  # a sample whose temperature the votes before it choose


def stream_of(prompt: Sequence[int], temperature: float, k: int) -> int:
    """The random stream of sample k at this temperature: 63 bits, fixed by what is sampled and by nothing else."""
    body = struct.pack(f"<{len(prompt)}qdq", *prompt, temperature, k)
    return int.from_bytes(blake2b(body, digest_size=8).digest(), "little") >> 1


def plan_of(temperatures: Sequence[float], samples: int) -> list[tuple[float, int]]:
    """[(temperature, k)] by sample number: one of each temperature in turn; temperature 0 once, it has one text.

    samples: how many of each temperature above 0
    raises: ValueError for no temperature, a negative one, one twice, or samples < 1
    """
    if not temperatures:
        raise ValueError("temperatures must name at least one; (0, 0.4, 0.8) is the default")
    for t in temperatures:
        check_temperature(t)
    if len(set(temperatures)) < len(temperatures):
        raise ValueError(
            f"a temperature is named twice in {tuple(temperatures)}; raise `samples` to draw it more often"
        )
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}; it is the number of samples of each temperature")
    return [(float(t), k) for k in range(samples) for t in temperatures if t > 0 or k == 0]


def temperatures_of(given: str | float | Iterable[float]) -> tuple[float, ...]:
    """Of "0.4/0.8", or "0.4,0.8" where commas part nothing else; of one number; or of several.

    raises: ValueError for a text that holds anything else, and for what is no temperature
    """
    listed = re.split("[/,]", given) if isinstance(given, str) else [given] if isinstance(given, int | float) else given
    try:
        found = tuple(float(t) for t in listed)
    except ValueError:
        raise ValueError(
            f"temperatures must be numbers with / or commas between them, got {given!r}; write 0.4/0.8"
        ) from None
    for t in found:
        check_temperature(t)
    return found


def check_temperature(temperature: float) -> None:
    """Raise ValueError for what is no temperature."""
    if not 0 <= temperature < inf:
        raise ValueError(f"a temperature must be a finite number of at least 0, got {temperature}")


def auto_plan_of(temperatures: Sequence[float], samples: int) -> list[tuple[float, int]]:
    """As many samples as `plan_of` has; after the first rounds each is UNDECIDED: `voting.temperatures` chooses.

    raises: ValueError as there, and with fewer than two temperatures above 0
    """
    plan = plan_of(temperatures, samples)
    if sum(t > 0 for t in temperatures) < 2:
        raise ValueError(
            f"temperatures=auto chooses between at least two above 0, got {tuple(temperatures)}; auto:0,0.4,0.8,1.2 is "
            "the default"
        )
    return [drawn if drawn[1] < EVEN_ROUNDS else UNDECIDED for drawn in plan]


def decided(plan: Sequence[tuple[float, int]]) -> int:
    """How many samples of a plan have their temperatures."""
    return next((n for n, (t, _) in enumerate(plan) if isnan(t)), len(plan))
