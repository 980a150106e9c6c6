"""Strategies replayed on a run's stored legs: a row for each, beside the run's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..answers.equivalence import canonical
from ..strategies.best_of_n import Best
from ..strategies.registry import method_of, strategy_name
from . import metrics
from .stored import read_config, read_items
from .stored_tree import NotStoredError, replay_strategy

MOST = 8  # rows that are replayed unasked


@dataclass(frozen=True)
class StrategyRow:
    """A strategy on all questions with a key; legs, tokens: of a question.

    difference, difference_low, difference_high: to the first row that could be played, 95 % paired
    refusal: why it cannot be replayed on this run, in one sentence, and then nothing else is known
    """

    strategy: str
    questions: int = 0
    accuracy: float = 0.0
    low: float = 0.0
    high: float = 0.0
    difference: float = 0.0
    difference_low: float = 0.0
    difference_high: float = 0.0
    legs: float = 0.0
    tokens: float = 0.0
    refusal: str | None = None


def usual_strategies(config: dict[str, Any]) -> list[str]:
    """What is replayed unasked: of best-of-n and weighted votes, fewer texts and a plain vote; of others nothing."""
    method = method_of(config["strategy"]) if "strategy" in config else None
    if not isinstance(method, Best):
        return []
    counts = [2**i for i in range(method.n.bit_length()) if 2**i < method.n][::-1]
    names = [strategy_name(method)]
    for n in (method.n, *counts):
        for how in dict.fromkeys((method.how, "vote")):
            made = type(method)(n=n, how=how, temperatures=method.temperatures, aggregate=method.aggregate)
            names.append(strategy_name(made))
    return list(dict.fromkeys(names))[:MOST]


def rows_of(folder: Path, strategies: Sequence[str], *, tokenizer: Any = None) -> list[StrategyRow]:
    """A row a strategy; raises ValueError for a name that is none, RunError for a damaged folder."""
    keys = {item.id: canonical(item.answer) for item in read_items(folder) if item.answer is not None}
    own = read_config(folder).get("strategy")
    rows: list[StrategyRow] = []
    first: dict[str, bool] | None = None
    for name in strategies:
        try:
            found = [f for f in replay_strategy(folder, name, tokenizer=tokenizer) if f.id in keys]
        except NotStoredError as error:
            rows.append(StrategyRow(name, refusal=str(error)))
            continue
        if not found:
            rows.append(StrategyRow(name, refusal=f"{folder} holds no answered question with a key"))
            continue
        right = {f.id: f.answer is not None and f.answer == keys[f.id] for f in found}
        first = first or right
        both = [q for q in right if q in first]
        n = len(right)
        low, high = metrics.wilson(sum(right.values()), n)
        gap_low, gap_high = metrics.paired_interval([right[q] for q in both], [first[q] for q in both])
        gap = sum(right[q] - first[q] for q in both) / max(1, len(both))
        legs, tokens = (sum(getattr(f, what) for f in found) / n for what in ("legs", "tokens"))
        shown = f"{name} (the run's own)" if name == own else name
        rows.append(StrategyRow(shown, n, sum(right.values()) / n, low, high, gap, gap_low, gap_high, legs, tokens))
    return rows


HEADS = ("strategy", "right %", "95 %", "against the first", "legs", "tokens")


def cells(row: StrategyRow) -> tuple[str, ...]:
    """A row as text, in the order of HEADS."""
    if row.refusal is not None:
        return (row.strategy, "", "", "", "", "")
    between = f"{100 * row.low:.1f} to {100 * row.high:.1f}"
    gap = "{:+.1f} ({:+.1f} to {:+.1f})".format(
        *(100 * x for x in (row.difference, row.difference_low, row.difference_high))
    )
    return (row.strategy, f"{100 * row.accuracy:.1f}", between, gap, f"{row.legs:.1f}", f"{row.tokens:,.0f}")
