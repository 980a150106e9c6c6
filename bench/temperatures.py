"""Temperatures that choose themselves against each single temperature and against the even mixture, at equal tokens.

    fastsample evaluate q.jsonl --out run --samples 14      the full vote at 0, 0.4, 0.8 and 1.2, every sample kept
    python bench/temperatures.py run ...

Replays of stored samples, which are exact: `auto` asks only for samples that are stored. Each is played on `--orders`
random orders of the samples of each temperature, and averaged over them for each question; intervals are 95 %, paired
over the questions, by 10,000 resamplings. The best single temperature is picked on the questions that it is compared
on, in its favour. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastsample.evaluation.replay import replay
from fastsample.evaluation.report import read_run, settings_of
from fastsample.strategies.plan import plan_of
from fastsample.strategies.records import Written
from fastsample.voting.ballots import leader

Played = list[tuple[float, float]]  # (share of orders in which the vote was right, mean tokens) of each question


def shuffled(samples: dict[int, Written], rng: random.Random) -> dict[int, Written]:
    """The samples of each temperature in another order."""
    by: dict[float, list[Written]] = {}
    for written in samples.values():
        by.setdefault(written.temperature, []).append(written)
    mixed = []
    for mine in by.values():
        rng.shuffle(mine)
        mixed += [replace(written, k=k) for k, written in enumerate(mine)]
    return dict(enumerate(mixed))


def voted(samples: list[Written], key: str) -> tuple[float, float]:
    """(whether their vote is right, their tokens)."""
    answer, _ = leader(Counter(s.answer for s in samples if s.answer is not None))
    return float(answer == key), float(sum(s.tokens for s in samples))


def at_tokens(curve: list[Played], tokens: float) -> list[float]:
    """Each question's accuracy where the curve's mean tokens are so many, between its two next points."""
    means = [sum(t for _, t in played) / len(played) for played in curve]
    place = next((n for n, mean in enumerate(means) if mean >= tokens), len(means) - 1)
    if place == 0 or means[place] <= tokens:
        return [right for right, _ in curve[place]]
    part = (tokens - means[place - 1]) / (means[place] - means[place - 1])
    return [(1 - part) * a + part * b for (a, _), (b, _) in zip(curve[place - 1], curve[place], strict=True)]


def difference(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """(mean, low, high) of a - b in points, paired."""
    gaps, rng = [100 * (x - y) for x, y in zip(a, b, strict=True)], random.Random(0)
    means = sorted(sum(rng.choices(gaps, k=len(gaps))) / len(gaps) for _ in range(10_000))
    return sum(gaps) / len(gaps), means[250], means[9749]


def mean_of(curves: list[list[Played]]) -> list[Played]:
    """The same curves, averaged over orders."""
    return [
        [tuple(sum(x) / len(x) for x in zip(*mine, strict=True)) for mine in zip(*point, strict=True)]  # type: ignore[misc]
        for point in zip(*curves, strict=True)
    ]


def measured(folder: Path, samples: int, orders: int) -> dict[str, Any]:
    """One run: accuracy of auto, of the even mixture and of each temperature, all at auto's tokens."""
    config, keys, stored = read_run(folder)
    settings = settings_of(config)
    ids = [q for q, key in keys.items() if key is not None and len(stored.get(q, {})) == len(settings.plan())]
    right = [str(keys[q]) for q in ids]
    rng = random.Random(1)
    plan = plan_of(settings.temperatures, settings.samples)
    kinds: dict[str, list[list[Played]]] = {}
    shares: Counter[float] = Counter()
    auto = replace(settings, is_adaptive=True, samples=samples, rule="majority")
    for _ in range(orders):
        mixed = [shuffled(stored[q], rng) for q in ids]
        played: Played = [(0.0, 0.0)] * len(ids)
        for place, result in replay(mixed, auto, "majority"):
            played[place] = (float(result.answer == right[place]), float(result.tokens))
            shares.update(s.temperature for s in result.samples)
        kinds.setdefault("auto", []).append([played])
        by = [{(w.temperature, w.k): w for w in mine.values()} for mine in mixed]
        orderings = {"even": plan} | {
            f"{t:g}": [(t, k) for k in range(settings.samples if t else 1)] for t in settings.temperatures
        }
        for name, order in orderings.items():
            curve = [
                [voted([mine[drawn] for drawn in order[:n]], key) for mine, key in zip(by, right, strict=True)]
                for n in range(1, len(order) + 1)
            ]
            kinds.setdefault(name, []).append(curve)
    curves = {name: mean_of(mine) for name, mine in kinds.items()}
    tokens = sum(t for _, t in curves["auto"][0]) / len(ids)
    each = {name: at_tokens(curve, tokens) for name, curve in curves.items()}
    accuracy = {name: 100 * sum(mine) / len(ids) for name, mine in each.items()}
    best = max((name for name in accuracy if name not in ("auto", "even")), key=accuracy.__getitem__)
    total = sum(shares.values())
    return {
        "run": folder.name,
        "questions": len(ids),
        "tokens": tokens,
        "accuracy": accuracy,
        "shares": {f"{t:g}": round(100 * n / total, 1) for t, n in sorted(shares.items())},
        "best": best,
        "against_best": difference(each["auto"], each[best]),
        "against_even": difference(each["auto"], each["even"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="+")
    parser.add_argument("--samples", type=int, default=5, help="of each temperature, in the budget that auto spends")
    parser.add_argument("--orders", type=int, default=20)
    args = parser.parse_args()
    rows = [measured(folder, args.samples, args.orders) for folder in args.run]
    for row in rows:
        print(
            f"{row['run']}: {row['questions']} questions, {row['tokens']:.0f} tokens each; samples went {row['shares']}"
        )
        print("    right: " + ", ".join(f"{name} {value:.1f} %" for name, value in row["accuracy"].items()))
        for name in ("best", "even"):
            mean, low, high = row[f"against_{name}"]
            other = f"the best single one, {row['best']}" if name == "best" else "the even mixture"
            print(f"    auto against {other}: {mean:+.1f} points (95 % {low:+.1f} to {high:+.1f})")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
