"""A run, read again: every rule replayed on its stored samples, and what the samples say about temperatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..answers.equivalence import canonical
from ..solving.fit import missing
from ..strategies.question import Settings
from ..strategies.records import Written
from ..voting.registry import rule_of
from ..voting.rule import Rule
from . import metrics
from .dataset import RunError
from .efforts import Level, levels_of
from .metrics import Mark, Point
from .replay import StoredEngine, replay
from .replayed import StrategyRow, rows_of, usual_strategies
from .stored import read_config, read_items, read_paths, read_results, read_samples, read_sessions, settings_of

USUAL_RULES = (
    "majority",
    "decided",
    "beta",
    "beta:confidence=0.9",
    "ahead:k=2",
    "ahead:k=3",
    "ahead:k=4",
    "window",
    "certified",
    "two-stage",
    "confidence:window=8",
    "weighted:by=self_certainty",
    "weighted:by=mean_logprob",
    "weighted:by=entropy",
    "weighted:by=self_certainty,how=borda",
)


@dataclass(frozen=True)
class Row:
    """One rule on all complete questions of a run.

    right: per question; low, high: 95 % Wilson interval; difference, difference_low, _high: paired, to the full vote
    samples, tokens: a question; steps: forward passes of the whole run; token_share, step_share: of the full vote's
    changed: questions whose answer is not the full vote's; stopped: share of questions that the rule stopped early
    """

    rule: str
    right: tuple[bool, ...]
    accuracy: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    samples: float
    tokens: float
    steps: int
    token_share: float
    step_share: float
    changed: int
    stopped: float


ADAPTIVE = (
    "The votes chose every sample's temperature, so this run cannot say how the temperatures compare; one with the "
    "temperatures named can."
)


@dataclass
class Report:
    """Everything a page about one run shows."""

    folder: Path
    config: dict[str, Any]
    questions: int
    complete: int
    live: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    singles: dict[float, list[Point]] = field(default_factory=dict)
    mix: list[Point] = field(default_factory=list)
    coverage: metrics.Coverage | None = None
    entropies: list[metrics.Entropies] = field(default_factory=list)
    avg: dict[float, float] = field(default_factory=dict)
    own_vote: dict[float, float] = field(default_factory=dict)
    pass_at: dict[int, float] = field(default_factory=dict)
    verdict: str = ""
    search: dict[str, float] | None = None
    strategies: list[StrategyRow] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)


def read_run(folder: Path) -> tuple[dict[str, Any], dict[str, str | None], dict[str, dict[int, Written]]]:
    """(config, question id -> right answer in canonical form, question id -> finished samples by number)."""
    config = read_config(folder)
    keys = {i.id: None if i.answer is None else canonical(i.answer) for i in read_items(folder)}
    stored: dict[str, dict[int, Written]] = {}
    for question, sample in read_samples(folder, settings_of(config).plan()):
        if sample.is_finished and question in keys:
            stored.setdefault(question, {}).setdefault(sample.number, sample)
    return config, keys, stored


def report_of(
    folder: Path,
    rules: Sequence[str] = USUAL_RULES,
    *,
    slots: int | None = None,
    strategies: Sequence[str] | None = None,
    tokenizer: Any = None,
) -> Report:
    """Replay the rules on the questions of a run whose whole budget is stored.

    strategies: to be replayed on the stored legs, see `stored_tree`; None takes usual ones of the run's own, where it
                has one. tokenizer: the model's; strategies with prompts of their own need it

    Nothing is replayed for a run whose own rule stops early: what the samples it saved would have said, nobody knows,
    and the questions on which it saved none are the hardest ones.

    raises: RunError for a folder without a run, or with files that were edited or damaged
    """
    config, keys, stored = read_run(folder)
    settings = settings_of(config)
    budget = len(settings.plan())
    ids = [q for q in keys if keys[q] is not None and len(stored.get(q, {})) == budget]
    if not rule_of(settings.rule).spends_budget:
        ids = []
    page = Report(folder, config, len(keys), len(ids), live_costs(folder))
    wanted = usual_strategies(config) if strategies is None else strategies
    page.strategies = rows_of(folder, wanted, tokenizer=tokenizer) if wanted else []
    if "strategy" in config:
        page.search, page.levels = searched(folder, keys), levels_of(folder)
        return page
    if not ids:
        return page
    slots = slots or config.get("slots")
    if slots is None:
        raise RunError(f"{folder / 'config.json'} does not say how many slots the run had; name them with --slots")
    samples = [stored[q] for q in ids]
    right_answers = [keys[q] for q in ids]
    full: tuple[_Replayed, Row] | None = None
    certainty = config.get("certainty", "full")
    for text in ("majority", *(r for r in rules if r != "majority" and not missing(rule_of(r).needs, certainty))):
        played = _play(samples, settings, rule_of(text), slots)
        row = _row(text, played, right_answers, full)
        full = full or (played, row)
        page.rows.append(row)
    marks = {
        q: [
            Mark(s.temperature, s.answer, s.answer == keys[q], s.tokens, s.means.entropy)
            for _, s in sorted(stored[q].items())
        ]
        for q in ids
    }
    _temperatures(page, marks, budget)
    return page


@dataclass(frozen=True)
class _Replayed:
    answers: list[str | None]
    samples: int
    tokens: int
    steps: int
    stopped: int


def _play(samples: Sequence[dict[int, Written]], settings: Settings, rule: Rule, slots: int) -> _Replayed:
    engine = StoredEngine(samples, slots=slots, by_token=rule.watched_tokens > 0)
    answers: list[str | None] = [None] * len(samples)
    drawn = tokens = stopped = 0
    for place, result in replay(samples, settings, rule, engine=engine):
        answers[place] = result.answer
        drawn += len(result.samples)
        tokens += result.tokens
        stopped += result.status == "easy"
    return _Replayed(answers, drawn, tokens, engine.steps, stopped)


def _row(rule: str, played: _Replayed, keys: Sequence[str | None], full: tuple[_Replayed, Row] | None) -> Row:
    right = tuple(a is not None and a == k for a, k in zip(played.answers, keys))
    n = len(right)
    base, reference = full if full else (played, None)
    low, high = metrics.wilson(sum(right), n)
    truth = reference.right if reference else right
    d_low, d_high = metrics.paired_interval(right, truth)
    return Row(
        rule=rule,
        right=right,
        accuracy=sum(right) / n,
        low=low,
        high=high,
        difference=(sum(right) - sum(truth)) / n,
        difference_low=d_low,
        difference_high=d_high,
        samples=played.samples / n,
        tokens=played.tokens / n,
        steps=played.steps,
        token_share=played.tokens / max(1, base.tokens),
        step_share=played.steps / max(1, base.steps),
        changed=sum(a != b for a, b in zip(played.answers, base.answers)),
        stopped=played.stopped / n,
    )


def searched(folder: Path, keys: dict[str, str | None]) -> dict[str, float]:
    """What a run of trees came to, over the questions with a right answer to compare with.

    coverage: the share with a right answer in some finished path; choice: with a right answer chosen; gap: what a
    better scorer could still gain; legs, depth, tokens: of a question
    """
    found = {path["question"] for path in read_paths(folder) if path["answer"] == keys.get(path["question"], ())}
    results = {r["id"]: r for r in read_results(folder) if keys.get(r["id"]) is not None}
    n = max(1, len(results))
    choice = sum(bool(r["is_right"]) for r in results.values()) / n
    coverage = len(found & results.keys()) / n
    means = {name: sum(r.get(name) or 0 for r in results.values()) / n for name in ("legs", "depth", "tokens")}
    return {"questions": len(results), "coverage": coverage, "choice": choice, "gap": coverage - choice, **means}


def live_costs(folder: Path) -> dict[str, Any]:
    """What the run itself cost: questions answered, right ones, tokens, and the sums over its sessions."""
    asked = {item.id for item in read_items(folder)}
    # Of an id that was answered again, the last.
    results = {r["id"]: r for r in read_results(folder) if r["id"] in asked}.values()
    total: dict[str, Any] = {
        "rule": read_config(folder)["rule"],
        "questions": len(results),
        "right": sum(bool(r["is_right"]) for r in results),
        "tokens": sum(r["tokens"] for r in results),
        "samples": sum(r["counted"] + r["cancelled"] for r in results),
    }
    sessions = list(read_sessions(folder))
    if sessions and all("tokens" in s for s in sessions):
        total["tokens"] = sum(s["tokens"] for s in sessions)  # of every start, as steps and seconds are
    return total | {name: sum(s[name] for s in sessions) for name in ("seconds", "cpu_seconds", "steps")}


def _temperatures(page: Report, marks: dict[str, list[Mark]], budget: int) -> None:
    page.coverage = metrics.coverage(marks)
    page.entropies = metrics.entropy_by_difficulty(marks)
    every = metrics.temperatures(marks)
    for t in every:
        own = metrics.at_temperature(marks, t)
        most = min(len(m) for m in own.values())
        page.singles[t] = metrics.curve(own, range(1, most + 1))
        page.avg[t] = metrics.avg_at_n(own)
        page.own_vote[t] = metrics.maj_at_n(own)
    page.mix = metrics.mixed(marks, sorted({-(-budget * i // 20) for i in range(1, 21)}))
    page.pass_at = {k: metrics.mean_pass_at_k(marks, k) for k in (1, 2, 4, 8, 16, 32, 64) if k <= budget}
    page.verdict = ADAPTIVE if page.config.get("is_adaptive") else compare(page, len(marks))


def compare(page: Report, questions: int) -> str:
    """One plain sentence or two: all temperatures together against the best single one at equal tokens."""
    warm = {t: points for t, points in page.singles.items() if len(points) > 1}
    if len(page.singles) < 2 or not warm:
        return "The run has one temperature; there is nothing to compare."
    best = max(warm, key=lambda t: warm[t][-1].accuracy)
    point = warm[best][-1]
    mix = _at(page.mix, point.tokens)
    gap = 100 * (mix - point.accuracy)
    noise = 100 * (metrics.wilson(round(point.accuracy * questions), questions)[1] - point.accuracy)
    word = "more" if gap > 0 else "less"
    weight = "which is within the noise of so many questions" if abs(gap) < noise else "which is more than noise"
    return (
        f"At equal tokens ({point.tokens:,.0f} a question) a vote over all temperatures is right on {100 * mix:.1f} % "
        f"and a vote at the best single one, {best:g}, on {100 * point.accuracy:.1f} %: {abs(gap):.1f} points {word}, "
        f"{weight} (95 %: {noise:.0f} points). The best temperature was chosen on these same questions, in its favour. "
        f"The whole mixed budget ({page.mix[-1].tokens:,.0f} tokens) reaches {100 * page.mix[-1].accuracy:.1f} %."
    )


def _at(points: Sequence[Point], tokens: float) -> float:
    """The accuracy of a curve at so many tokens, interpolated."""
    for a, b in pairwise(points):
        if a.tokens <= tokens <= b.tokens and b.tokens > a.tokens:
            return a.accuracy + (b.accuracy - a.accuracy) * (tokens - a.tokens) / (b.tokens - a.tokens)
    return points[-1].accuracy if tokens > points[-1].tokens else points[0].accuracy
