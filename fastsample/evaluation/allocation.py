"""Which strategy for which questions, at what cost: a table from runs of several strategies on the same questions.

    theta*(q, N) = argmax over strategies of  E[right | strategy, N, difficulty(q)]            (arXiv 2408.03314)

What is chosen on a set of questions looks better on it than it is. So the table is fitted on one half of the
questions and measured on the other, and back; the number of the whole set stands beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

from ..strategies.allocated import Table
from ..strategies.best_of_n import Best
from ..strategies.path import in_turn
from ..strategies.plan import temperatures_of
from ..strategies.records import Written
from ..strategies.registry import method_of
from ..voting.ballots import leader
from .dataset import RunError
from .metrics import paired_interval
from .report import read_run
from .stored import read_results

BINS = ("hard", "medium", "easy")
ABSOLUTE = (0.1, 0.5)  # a hard question is right in under a tenth of its samples, an easy one in half (2502.06703)
DIFFICULTIES = ("agreement", "oracle")


@dataclass(frozen=True)
class Arm:
    """A strategy on the same questions: whether it was right, and the tokens that it wrote, by question id."""

    name: str
    right: Mapping[str, bool]
    tokens: Mapping[str, int]


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
    difficulty: "agreement" of the first k samples, which needs no key and is what the strategy `auto` measures, in
                thirds; or "oracle", the share of right ones of all samples, at 10 and 50 %
    raises: RunError or ValueError for runs that cannot be compared, and for a budget that nothing keeps to
    """
    if difficulty not in DIFFICULTIES:
        raise ValueError(f"difficulty must be one of {', '.join(DIFFICULTIES)}, got {difficulty!r}")
    if k < 1 or (budget is not None and budget <= 0):
        raise ValueError(f"k and the budget must be above 0, got k={k} and budget={budget}")
    arms, votes, keys = _read(folders)
    drawn = _in_turn(votes[0][1], votes[0][0])
    ids = sorted(q for q in keys if q in drawn and all(q in arm.right for arm in arms))
    if len(ids) < 4:
        raise RunError(
            f"the runs have {len(ids)} answered questions with a key in common, and two halves need 4; "
            "evaluate one file"
        )
    if k > min(len(drawn[q]) for q in ids):
        raise ValueError(
            f"k is {k}, and {votes[0][2]} has {min(len(drawn[q]) for q in ids)} samples above temperature 0"
        )
    alone = arms  # one strategy for all questions needs no first samples
    hardness, spent = {}, dict.fromkeys(ids, 0)
    for q in ids:
        if difficulty == "oracle":
            hardness[q] = fmean(s.answer == keys[q] for s in drawn[q])
        else:
            counts = Counter(s.answer for s in drawn[q][:k] if s.answer is not None)
            hardness[q] = max(counts.values(), default=0) / k
            spent[q] = sum(s.tokens for s in drawn[q][:k])
    if difficulty == "agreement":
        arms = _beside(arms, votes[0][0], k, spent)
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
    temperatures = tuple(votes[0][0])
    table = Table(k, temperatures, edges, tuple(arm.name for arm in chosen))
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


_Votes = list[tuple[list[float], dict[str, dict[int, Written]], Path]]


def _read(folders: Sequence[Path]) -> tuple[list[Arm], _Votes, dict[str, str]]:
    arms: dict[str, Arm] = {}
    votes: _Votes = []
    common: dict[str, str] | None = None
    for folder in folders:
        config, keys, stored = read_run(folder)
        known = {q: key for q, key in keys.items() if key is not None}
        if common is not None and any(known[q] != common[q] for q in known.keys() & common.keys()):
            raise RunError(f"{folder} and {folders[0]} have other keys for the same question ids; evaluate one file")
        common = known if common is None else common
        if "strategy" in config:
            method_of(config["strategy"])
            done = {r["id"]: r for r in read_results(folder)}
            mine = {q: r for q, r in done.items() if r["is_right"] is not None}
            name = config["strategy"]
            arms[name] = Arm(
                name, {q: r["is_right"] for q, r in mine.items()}, {q: r["tokens"] for q, r in mine.items()}
            )
            continue
        warm = [t for t in config["temperatures"] if t > 0]
        whole = {q: s for q, s in stored.items() if q in known and len(s) >= config["samples"] * len(warm)}
        if not warm or not whole or config.get("is_adaptive"):
            raise RunError(
                f"{folder} keeps no whole budget above temperature 0; run evaluate with the rule majority and named "
                "temperatures"
            )
        votes.append((warm, whole, folder))
        for temperatures in [warm, *([t] for t in warm if len(warm) > 1)]:
            for arm in _votes_of(temperatures, whole, known):
                arms.setdefault(arm.name, arm)
    if not votes:
        raise RunError(
            "no run of plain samples is among these, and they say how hard a question is; add one of evaluate"
        )
    return list(arms.values()), votes, common or {}


def _votes_of(temperatures: list[float], whole: dict[str, dict[int, Written]], keys: Mapping[str, str]) -> list[Arm]:
    """Votes of 1, 2, 4, ... samples at these temperatures in turn: the samples that best:how=vote would draw."""
    drawn = _in_turn(whole, temperatures)
    most = min(map(len, drawn.values()))
    arms = []
    for n in sorted({2**i for i in range(most.bit_length())} | {most}):
        named = "/".join(f"{t:g}" for t in temperatures)
        right = {
            q: leader(Counter(s.answer for s in mine[:n] if s.answer is not None))[0] == keys[q]
            for q, mine in drawn.items()
        }
        tokens = {q: sum(s.tokens for s in mine[:n]) for q, mine in drawn.items()}
        arms.append(Arm(f"best:n={n},how=vote,temperatures={named}", right, tokens))
    return arms


def _in_turn(whole: dict[str, dict[int, Written]], temperatures: Sequence[float]) -> dict[str, list[Written]]:
    drawn = {}
    for q, mine in whole.items():
        by = {(s.temperature, s.k): s for s in mine.values()}
        heats, seen, found = in_turn(temperatures, len(mine)), Counter[float](), []
        for t in heats:
            if (t, seen[t]) not in by:
                break
            found.append(by[t, seen[t]])
            seen[t] += 1
        drawn[q] = found
    return drawn


def _beside(arms: Sequence[Arm], temperatures: Sequence[float], k: int, spent: Mapping[str, int]) -> list[Arm]:
    """The arms with the cost of the first samples on top, unless they begin with them: what `auto` pays."""
    found = []
    for arm in arms:
        method = method_of(arm.name)
        if isinstance(method, Best) and temperatures_of(method.temperatures) == tuple(temperatures):
            if method.n >= k:
                found.append(arm)
        else:
            found.append(Arm(arm.name, arm.right, {q: n + spent.get(q, 0) for q, n in arm.tokens.items()}))
    return found


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
    values = [hardness[q] for q in ids]
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
