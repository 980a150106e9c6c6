"""What the samples of a question set say: accuracy, coverage over temperatures, entropy of right and wrong samples.

A `Mark` is one sample, judged. Rates are taken per question and then averaged over the questions; N and C are never
pooled, which would let questions with more samples count for more. Standard library only.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import comb, sqrt

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Mark:
    """One sample of one question. answer None could not be read and is wrong; entropy: mean nats a token, or None."""

    temperature: float
    answer: str | None
    is_right: bool
    tokens: int
    entropy: float | None = None


Marks = Mapping[str, Sequence[Mark]]  # question id -> its samples, by number


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k of n samples, c of them right, hold a right one: 1 - C(n - c, k) / C(n, k); unbiased.

    raises: ValueError unless 0 <= c <= n and 1 <= k <= n
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass_at_k needs 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}")
    return 1 - comb(n - c, k) / comb(n, k)


def mean_pass_at_k(marks: Marks, k: int) -> float:
    """Pass@K, the mean over the questions that have at least k samples; NaN where none has."""
    return _mean(pass_at_k(len(m), sum(x.is_right for x in m), k) for m in marks.values() if len(m) >= k)


def avg_at_n(marks: Marks) -> float:
    """Avg@N: the mean over questions of the share of right samples."""
    return _mean(sum(m.is_right for m in ms) / len(ms) for ms in marks.values() if ms)


def vote(marks: Sequence[Mark]) -> bool | None:
    """Whether the most frequent answer is right, ties to the one given first; None where nobody voted."""
    counts = Counter(m.answer for m in marks if m.answer is not None)
    if not counts:
        return None
    winner = counts.most_common(1)[0][0]
    return next(m.is_right for m in marks if m.answer == winner)


def maj_at_n(marks: Marks) -> float:
    """maj@N: the share of questions whose vote is right; a question without a vote is wrong."""
    return _mean(float(bool(vote(m))) for m in marks.values())


def at_temperature(marks: Marks, temperature: float) -> dict[str, list[Mark]]:
    """The samples of one temperature."""
    return {q: [m for m in ms if m.temperature == temperature] for q, ms in marks.items()}


def temperatures(marks: Marks) -> list[float]:
    """All temperatures of the samples, lowest first."""
    return sorted({m.temperature for ms in marks.values() for m in ms})


@dataclass(frozen=True)
class Coverage:
    """solved: per temperature, the share of questions with a right sample there; only: with one nowhere else.

    anywhere: share of questions with a right sample at all; by_set: share by the set of temperatures that solve them
    """

    solved: dict[float, float]
    only: dict[float, float]
    anywhere: float
    by_set: dict[tuple[float, ...], float]


def coverage(marks: Marks) -> Coverage:
    """Which temperatures solve which questions; coverage is what an oracle could pick out, not what a vote reaches."""
    every = temperatures(marks)
    sets = [tuple(t for t in every if any(m.is_right for m in ms if m.temperature == t)) for ms in marks.values()]
    n = max(1, len(sets))
    return Coverage(
        {t: sum(t in s for s in sets) / n for t in every},
        {t: sum(s == (t,) for s in sets) / n for t in every},
        sum(bool(s) for s in sets) / n,
        {s: c / n for s, c in Counter(sets).most_common()},
    )


@dataclass(frozen=True)
class Entropies:
    """Mean token entropy (nats) of the right and of the wrong samples of questions of one difficulty."""

    low: float
    high: float
    questions: int
    right: float
    wrong: float


def entropy_by_difficulty(marks: Marks, edges: Sequence[float] = (0, 0.25, 0.5, 0.75, 1)) -> list[Entropies]:
    """Questions by their share of right samples, in bins (low, high], the first one [low, high]; empty bins are out.

    Per question first, then over questions; NaN where a bin has no right (or no wrong) samples.
    """
    rows = []
    for low, high in pairwise(edges):
        chosen = []
        for ms in marks.values():
            share = sum(m.is_right for m in ms) / len(ms) if ms else -1.0
            if low < share <= high or (low == edges[0] and share == low):
                chosen.append(ms)
        if chosen:
            right, wrong = (_mean(filter(_is_number, (_entropy(ms, w) for ms in chosen))) for w in (True, False))
            rows.append(Entropies(low, high, len(chosen), right, wrong))
    return rows


def _entropy(marks: Sequence[Mark], is_right: bool) -> float:
    return _mean(m.entropy for m in marks if m.is_right == is_right and m.entropy is not None)


@dataclass(frozen=True)
class Point:
    """A vote over `samples` samples a question: mean tokens a question and share of right votes."""

    samples: float
    tokens: float
    accuracy: float


def curve(marks: Marks, sizes: Sequence[int], *, draws: int = 40, seed: int = 0) -> list[Point]:
    """Accuracy of the vote against its tokens: the mean over `draws` random subsets of every question's samples.

    sizes: samples a question; a question that has fewer gives all of them
    """
    rng = random.Random(seed)
    points = []
    for size in sizes:
        right = tokens = used = 0
        for ms in marks.values():
            for _ in range(draws):
                chosen = rng.sample(range(len(ms)), min(size, len(ms)))
                right += bool(vote([ms[n] for n in chosen]))
                tokens += sum(ms[n].tokens for n in chosen)
                used += len(chosen)
        total = max(1, draws * len(marks))
        points.append(Point(used / total, tokens / total, right / total))
    return points


def mixed(marks: Marks, sizes: Sequence[int], *, draws: int = 40, seed: int = 0) -> list[Point]:
    """The same for a vote over all temperatures, each with an equal number of samples as far as it has them."""
    rng = random.Random(seed)
    points = []
    for size in sizes:
        right = tokens = used = 0
        for ms in marks.values():
            by: dict[float, list[Mark]] = {}
            for m in ms:
                by.setdefault(m.temperature, []).append(m)
            for _ in range(draws):
                chosen = _even(by, size, rng)
                right += bool(vote(chosen))
                tokens += sum(m.tokens for m in chosen)
                used += len(chosen)
        total = max(1, draws * len(marks))
        points.append(Point(used / total, tokens / total, right / total))
    return points


def _even(by: Mapping[float, Sequence[Mark]], size: int, rng: random.Random) -> list[Mark]:
    piles = {t: rng.sample(list(ms), len(ms)) for t, ms in sorted(by.items())}
    chosen: list[Mark] = []
    while len(chosen) < size and any(piles.values()):
        for pile in piles.values():
            if pile and len(chosen) < size:
                chosen.append(pile.pop())
    return chosen


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share of n questions."""
    if n == 0:
        return 0.0, 1.0
    p, z = right / n, Z95
    middle, half = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def paired_interval(a: Sequence[float], b: Sequence[float], *, draws: int = 4000, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of mean(a) - mean(b) on the same questions: right or wrong, or shares of right texts.

    raises: ValueError for different lengths
    """
    if len(a) != len(b):
        raise ValueError(f"paired intervals need the same questions, got {len(a)} and {len(b)} answers")
    return mean_interval([x - y for x, y in zip(a, b)], draws=draws, seed=seed)


def mean_interval(values: Sequence[float], *, draws: int = 4000, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of a mean over questions; (0, 0) of none."""
    if not values:
        return 0.0, 0.0
    rng = random.Random(seed)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(draws))
    return means[round(0.025 * (draws - 1))], means[round(0.975 * (draws - 1))]


def hidden_tokens(shown: int, completion: int, reasoning: int) -> float:
    """How long a chain of thought is that a service counts but does not show, in the tokens of one's own tokenizer.

        shown * reasoning / (completion - reasoning)                                                (arXiv 2502.18080)

    shown:                 tokens of the visible text, in one's own tokenizer
    completion, reasoning: what the service counts: of the whole completion, and of its hidden part alone

    raises: ValueError for counts that leave no visible text
    """
    if shown < 0 or not 0 <= reasoning < completion:
        raise ValueError(
            f"hidden_tokens needs shown >= 0 and 0 <= reasoning < completion, got shown={shown}, "
            f"completion={completion}, reasoning={reasoning}"
        )
    return shown * reasoning / (completion - reasoning)


def _is_number(x: float) -> bool:
    return x == x


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else float("nan")
