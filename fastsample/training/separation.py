"""How well numbers tell right from wrong: the area under the curve, with an interval that is drawn by question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Area:
    """The chance that a right one has a larger number than a wrong one, ties half; low, high: 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def area(numbers: Sequence[float], labels: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """P(number of a right one > number of a wrong one), ties half; NaN without both kinds.

    labels: in [0, 1]: one of 0.25 counts a quarter as right and three quarters as wrong
    """
    found: float = _area(*_grouped(numbers), np.asarray(labels, float), np.asarray(weights or np.ones(len(labels))))
    return found


def area_by_question(
    numbers: Sequence[float], labels: Sequence[float], questions: Sequence[str], *, draws: int = 1000, seed: int = 0
) -> Area:
    """The area, and what it comes to where whole questions are drawn anew: the legs of one hang together."""
    names = {name: n for n, name in enumerate(dict.fromkeys(questions))}
    places = np.array([names[q] for q in questions])
    grouped, y = _grouped(numbers), np.asarray(labels, float)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        times = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        values.append(_area(*grouped, y, times[places]))
    kept = [value for value in values if value == value]
    low, high = np.quantile(kept, [0.025, 0.975]) if kept else (float("nan"), float("nan"))
    return Area(_area(*grouped, y, np.ones(len(y))), float(low), float(high))


def _grouped(numbers: Sequence[float]) -> tuple[Array, Array]:
    """(order by number, the number of the group of equals that each in this order belongs to)."""
    x = np.asarray(numbers, float)
    order = np.argsort(x, kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.diff(x[order]) > 0)]).astype(int)


def _area(order: Array, group: Array, y: Array, weights: Array) -> float:
    right, wrong = (y * weights)[order], ((1 - y) * weights)[order]
    rights, wrongs = np.bincount(group, right), np.bincount(group, wrong)
    below = np.cumsum(wrongs) - wrongs
    total = rights.sum() * wrongs.sum()
    return float((rights * (below + wrongs / 2)).sum() / total) if total > 0 else float("nan")
