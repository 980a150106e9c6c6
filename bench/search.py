"""Strategies in a world of right and wrong legs (tests/helpers/world.py): how often each finds the right answer.

    python bench/search.py --questions 100 --widths 4,16,64

The least and the most possible come first: one sample, and an oracle's closed forms. Two scorers: an informative one on
hard questions, and one that is fooled by some wrong legs on easy questions. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from math import sqrt
from pathlib import Path
from time import process_time

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from world import Noisy, Oracle, Tokens, answer, world

from fastsample.evaluation.metrics import wilson
from fastsample.solving.solve import solve_many
from fastsample.strategies.question import Settings

STRATEGIES = ("best:n={n},how=vote", "best:n={n}", "weighted:n={n}", "beam:n={n},m=4", "dvts:n={n},m=4,how=weighted")
WORLDS = {
    "informative scorer, hard questions (p 0.6, mu 1.2)": (0.6, Noisy(1.2)),
    "fooled scorer, easy questions (p 0.9, mu 0.6, e 0.02)": (0.9, Noisy(0.6, 0.02)),
    "oracle (p 0.5)": (0.5, Oracle()),
}
DEPTH = 6


def measured(strategy, p, scorer, questions):
    """(right, tokens) over so many questions."""
    found = solve_many(
        None, Tokens(), map(str, range(questions)), settings=Settings(max_new_tokens=40), extractor=answer,
        scorer=scorer, strategy=strategy, engine=world(p, DEPTH, slots=256), is_strict=True,
    )  # fmt: skip
    right = tokens = 0
    for result in found:
        right += result.answer == "right"
        tokens += result.tokens
    return right, tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--widths", default="4,16,64")
    options = parser.parse_args()
    widths = [int(n) for n in options.widths.split(",")]
    rows = []
    for name, (p, scorer) in WORLDS.items():
        print(f"{name}: one sample is right on {p**DEPTH:.1%}")
        for pattern in STRATEGIES:
            for n in widths:
                start = process_time()
                strategy = pattern.format(n=n)
                right, tokens = measured(strategy, p, scorer, options.questions)
                low, high = wilson(right, options.questions)
                if strategy.startswith("best") and isinstance(scorer, Oracle) and "vote" not in strategy:
                    expected = 1 - (1 - p**DEPTH) ** n
                    error = sqrt(expected * (1 - expected) / options.questions)
                    assert abs(right / options.questions - expected) <= 4 * error, (strategy, right, expected)
                share, each = right / options.questions, tokens / options.questions
                seconds = process_time() - start
                print(f"  {strategy:28} {share:6.1%} ({low:.0%} to {high:.0%})  {each:6.0f} tokens  {seconds:5.1f} s")
                rows.append({"world": name, "strategy": strategy, "right": share, "tokens": each})
    print(json.dumps({"questions": options.questions, "rows": rows}))


if __name__ == "__main__":
    main()
