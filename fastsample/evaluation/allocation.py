"""Which strategy for which questions, at what cost: a table from runs of several strategies on the same questions.

    theta*(q, N) = argmax over strategies of  E[right | strategy, N, difficulty(q)]            (arXiv 2408.03314)

What is chosen on a set of questions looks better on it than it is. So the table is fitted on one half of the
questions and measured on the other, and back; the number of the whole set stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

from ..strategies.allocated import Table, agreement, predicted
from ..strategies.records import Written
from .arms import Arm, read_arms
from .dataset import RunError
from .metrics import paired_interval

BINS = ("hard", "medium", "easy")
ABSOLUTE = (0.1, 0.5)  # a hard question is right in under a tenth of its samples, an easy one in half (2502.06703)
DIFFICULTIES = ("agreement", "predicted", "oracle")


@dataclass(frozen=True)
class Cell:
    """A strategy on the questions of one bin, tokens a question."""

    bin: str
    questions: int
    strategy: str
    accuracy: float
    tokens: float
    is_chosen: bool


@dataclass(frozen=True)
class Fit:
    """A policy and what it comes to.

    accuracy, tokens: two-fold; in_sample: chosen and measured on all questions
    """

    accuracy: float
    tokens: float
    in_sample: float


@dataclass(frozen=True)
class Allocation:
    """What `allocate` found; `difference` is auto's two-fold accuracy less the single strategy's, 95 % paired."""

    questions: int
    budget: float | None
    difficulty: str
    table: Table
    auto: Fit
    single: Fit
    single_name: str
    difference: tuple[float, float, float]
    cells: list[Cell] = field(default_factory=list)


def allocate(
    folders: Sequence[Path], *, budget: float | None = None, difficulty: str = "agreement", k: int = 8
) -> Allocation:
    """Fit a table on runs of the same questions.

    folders:    runs of `evaluate`: at least one vote that kept its whole budget, and any of strategies
    budget:     tokens a question, the k first samples included; None has no limit
    difficulty: "agreement" of the first k samples, or "predicted": the mean of their scores. Both need no key, are what
                the strategy `auto` measures, and go by thirds. Or "oracle", the share of right ones of all samples, at
                10 and 50 %
    raises: RunError or ValueError for runs that cannot be compared, and for a budget that nothing keeps to
    """
    if difficulty not in DIFFICULTIES:
        raise ValueError(f"difficulty must be one of {', '.join(DIFFICULTIES)}, got {difficulty!r}")
    if k < 1 or (budget is not None and budget <= 0):
        raise ValueError(f"k and the budget must be above 0, got k={k} and budget={budget}")
    read = read_arms(folders)
    arms, drawn, keys = read.arms, read.samples, read.keys
    ids = sorted(q for q in keys if q in drawn and all(q in arm.right for arm in arms))
    if len(ids) < 4:
        raise RunError(
            f"the runs have {len(ids)} answered questions with a key in common, and two halves need 4; "
            "evaluate one file"
        )
    if k > min(len(drawn[q]) for q in ids):
        raise ValueError(
            f"k is {k}, and {read.where} has {min(len(drawn[q]) for q in ids)} samples above temperature 0"
        )
    alone = arms  # one strategy for all questions needs no first samples
    hardness = {q: _hardness(drawn[q], keys[q], difficulty, k) for q in ids}
    if difficulty == "predicted" and all(value == -inf for value in hardness.values()):
        raise ValueError(
            f"predicted difficulty is the mean score of the first samples, and {read.where} has no scores; run "
            "evaluate with --scorer, or take agreement"
        )
    if difficulty != "oracle":
        arms = read.beside(k, ids)
    halves = [[q for q in ids if _half(q) == side] for side in (0, 1)]
    if not all(halves):
        halves = [ids[::2], ids[1::2]]
    right, cost, plain, plain_cost = {}, {}, {}, {}
    for fitted, measured in (halves, halves[::-1]):
        edges, chosen = _fit(arms, fitted, hardness, budget, difficulty)
        single = _best(alone, fitted, budget)
        for q in measured:
            arm = chosen[_bin(edges, hardness[q])]
            right[q], cost[q], plain[q], plain_cost[q] = arm.right[q], arm.tokens[q], single.right[q], single.tokens[q]
    edges, chosen = _fit(arms, ids, hardness, budget, difficulty)
    single = _best(alone, ids, budget)
    by = read.scorer or "" if difficulty == "predicted" else ""
    names = tuple(arm.name for arm in chosen)
    table = Table(k, read.temperatures, edges, names, "agreement" if difficulty == "oracle" else difficulty, by)
    low, high = paired_interval([right[q] for q in ids], [plain[q] for q in ids])
    cells = []
    for place, name in enumerate(BINS):
        mine = [q for q in ids if _bin(edges, hardness[q]) == place]
        cells += [Cell(name, len(mine), arm.name, *_of(arm, mine), arm is chosen[place]) for arm in arms if mine]
    return Allocation(
        len(ids), budget, difficulty, table,
        Fit(fmean(right.values()), fmean(cost.values()), fmean(chosen[_bin(edges, hardness[q])].right[q] for q in ids)),
        Fit(fmean(plain.values()), fmean(plain_cost.values()), fmean(single.right[q] for q in ids)),
        single.name, (fmean(right.values()) - fmean(plain.values()), low, high), cells,
    )  # fmt: skip


def _hardness(samples: Sequence[Written], key: str, difficulty: str, k: int) -> float:
    """Of a question: the larger, the easier; -inf where no sample has a score."""
    if difficulty == "oracle":
        return fmean(s.answer == key for s in samples)
    if difficulty == "predicted":
        return predicted([s.score for s in samples[:k] if s.score is not None])
    return agreement([s.answer for s in samples[:k]])


def _half(q: str) -> int:
    return blake2b(q.encode("utf-8", "backslashreplace"), digest_size=1).digest()[0] & 1


def _of(arm: Arm, ids: Sequence[str]) -> tuple[float, float]:
    return fmean(arm.right[q] for q in ids), fmean(arm.tokens[q] for q in ids)


def _bin(edges: Sequence[float], value: float) -> int:
    return sum(value >= edge for edge in edges)


def _best(arms: Sequence[Arm], ids: Sequence[str], budget: float | None) -> Arm:
    """The most accurate one that keeps to the budget on these questions, ties to fewer tokens."""
    rated = [(_of(arm, ids), arm) for arm in arms]
    able = [(accuracy, -tokens, arm) for (accuracy, tokens), arm in rated if budget is None or tokens <= budget]
    if not able:
        least = min(tokens for (_, tokens), _ in rated)
        raise ValueError(f"no strategy keeps to {budget:g} tokens a question; the least takes {least:.0f}")
    return max(able, key=lambda row: row[:2])[2]


def _fit(
    arms: Sequence[Arm], ids: Sequence[str], hardness: Mapping[str, float], budget: float | None, difficulty: str
) -> tuple[tuple[float, ...], list[Arm]]:
    told = [hardness[q] for q in ids if hardness[q] > -inf] or [0.0]
    values = [max(hardness[q], min(told)) for q in ids]
    edges = ABSOLUTE if difficulty == "oracle" else tuple(quantiles(values, n=3, method="inclusive"))
    chosen = []
    for place in range(len(BINS)):
        mine = [q for q in ids if _bin(edges, hardness[q]) == place]
        chosen.append(_best(arms, mine or ids, budget))
    return edges, chosen


def to_json(found: Allocation) -> dict[str, Any]:
    """A dictionary for `json.dumps`."""
    from dataclasses import asdict

    return asdict(found) | {"table": found.table.to_json()}
