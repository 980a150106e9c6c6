"""A run of two questions, for tests of its folder."""

from __future__ import annotations

from fastsample.evaluation.dataset import Item
from fastsample.strategies.records import Written
from fastsample.token_stats import MeanStats

CONFIG = {"rule": "majority", "samples": 16, "temperatures": [1.0]}
ITEMS = [Item("p", "1 + 1?", "2"), Item("q", "2 + 2?", "4")]


def written(number, text="4"):
    """One sample."""
    ended = {"certainties": (1.0, 2.0), "token_ids": (3, 4)}
    return Written(number, 1.0, number, 7, text, text, 2, "eos", MeanStats(-0.5), **ended)
