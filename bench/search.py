"""Strategies in a world of right and wrong legs (tests/helpers/world.py): how often each finds the right answer.

    python bench/search.py [--seeds 20000] [--questions 400] [--widths 4,16,64] [--processes 2] [--out FILE]

First what a person can compute: with an oracle for a scorer, best-of-n, DVTS and a beam have closed forms. The share of
so many seeds must lie within four standard errors of them, and with the oracle turned round below one sample's rate;
else the script fails. Then the shapes that were published: an informative scorer on hard questions, and one that is
fooled by some wrong legs, on easy and on middling ones. Ends with one line of JSON. With --out each cell is kept in a
file as it ends, and a script that is started again goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from math import sqrt
from pathlib import Path
from time import strftime

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from world import Noisy, Oracle, Tokens, answer, beam, best_of, dvts, world

from fastsample.evaluation.metrics import wilson
from fastsample.solving.solve import solve_many
from fastsample.strategies.question import Settings

STRATEGIES = ("best:n={n},how=vote", "best:n={n}", "weighted:n={n}", "beam:n={n},m=4", "dvts:n={n},m=4,how=weighted")
WORLDS = {
    "informative scorer, hard questions (p 0.6, mu 1.2)": (0.6, Noisy(1.2)),
    "fooled scorer, easy questions (p 0.9, mu 0.6, e 0.02)": (0.9, Noisy(0.6, 0.02)),
    "fooled scorer, middling questions (p 0.75, mu 0.6, e 0.02)": (0.75, Noisy(0.6, 0.02)),
    "oracle (p 0.5)": (0.5, Oracle()),
}
DEPTH, M = 6, 4
CLOSED = {
    "best:n={n}": lambda p, n: best_of(p, DEPTH, n),
    "dvts:n={n},m=4": lambda p, n: dvts(p, DEPTH, n, M),
    "beam:n={n},m=4": lambda p, n: beam(p, DEPTH, n, M),
}
CHUNK = 250  # questions that a process takes at once


def measured(strategy, p, scorer, questions):
    """(right, tokens) over these questions, numbers."""
    found = solve_many(
        None, Tokens(), map(str, questions), settings=Settings(max_new_tokens=40), extractor=answer,
        scorer=scorer, strategy=strategy, engine=world(p, DEPTH, slots=256), is_strict=True,
    )  # fmt: skip
    right = tokens = 0
    for result in found:
        right += result.answer == "right"
        tokens += result.tokens
    return right, tokens


def shared_out(pool, strategy, p, scorer, count):
    """The same over `count` questions, by all processes."""
    parts = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    found = [pool.submit(measured, strategy, p, scorer, part) for part in parts]
    rights, tokens = zip(*(one.result() for one in found))
    return sum(rights), sum(tokens)


class Cells:
    """What is measured, a dictionary a cell; kept in a file, where there is one."""

    def __init__(self, path, header):
        self.path = path
        self.content = header | {"rows": [], "closed": []}
        if path is not None and path.exists():
            stored = json.loads(path.read_text())
            if any(stored.get(name) != value for name, value in header.items() if name != "date"):
                raise SystemExit(f"{path} holds cells of other numbers; name another file")
            self.content = stored

    def cell(self, kind, names, measure):
        """The cell of these names, as it is kept or measured now."""
        for row in self.content[kind]:
            if all(row.get(name) == value for name, value in names.items()):
                return row
        row = names | measure()
        self.content[kind].append(row)
        if self.path is not None:
            self.path.write_text(json.dumps(self.content, indent=1) + "\n")
        return row


def closed_forms(pool, cells, widths, seeds, p=0.5):
    """Measured and expected shares, and how many standard errors they are apart; fails where more than four."""
    print(f"closed forms, {seeds:,} seeds, p {p:g}, {DEPTH} legs; an oracle chooses")

    def share(strategy, scorer):
        return shared_out(pool, strategy, p, scorer, seeds)[0] / seeds

    for pattern in CLOSED:
        strategy = pattern.format(n=widths[0])
        row = cells.cell("closed", {"strategy": strategy, "oracle": "turned round"},
                         lambda strategy=strategy: {"right": share(strategy, Oracle(-1)), "one": p**DEPTH})  # fmt: skip
        print(
            f"  {strategy:16} {row['right']:.4f} with the oracle turned round; one sample has {p**DEPTH:.4f}",
            flush=True,
        )
        if not row["right"] < p**DEPTH:
            raise SystemExit(f"{strategy} does not mind that its oracle is turned round: nothing is told")
    for n in widths:
        for pattern, expected_of in CLOSED.items():
            strategy, expected = pattern.format(n=n), expected_of(p, n)
            row = cells.cell("closed", {"strategy": strategy, "oracle": "right", "expected": expected},
                             lambda strategy=strategy: {"right": share(strategy, Oracle())})  # fmt: skip
            # where nearly all find it, the error of the share would be 0: one seed is the least that can be seen
            error = max(sqrt(expected * (1 - expected) / seeds), 1 / seeds)
            apart = (row["right"] - expected) / error
            print(f"  {strategy:16} {row['right']:.4f}, to be {expected:.4f}: {apart:+.1f} standard errors", flush=True)
            if not abs(apart) <= 4:
                raise SystemExit(f"{strategy} is {apart:.1f} standard errors off: nothing is told")


def shapes(pool, cells, widths, questions):
    """A row for each strategy of each width in each world."""
    for name, (p, scorer) in WORLDS.items():
        print(f"{name}: one sample is right on {p**DEPTH:.1%}")
        for pattern in STRATEGIES:
            for n in widths:
                strategy = pattern.format(n=n)

                def measure(strategy=strategy, p=p, scorer=scorer):
                    right, tokens = shared_out(pool, strategy, p, scorer, questions)
                    return {"right": right / questions, "tokens": tokens / questions}

                row = cells.cell("rows", {"world": name, "strategy": strategy}, measure)
                low, high = wilson(round(row["right"] * questions), questions)
                share, each = row["right"], row["tokens"]
                print(f"  {strategy:28} {share:6.1%} ({low:.0%} to {high:.0%})  {each:6.0f} tokens", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20_000, help="of each closed form")
    parser.add_argument("--questions", type=int, default=400, help="of each cell of the shapes")
    parser.add_argument("--widths", default="4,16,64")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a file in which each cell is kept as it ends")
    options = parser.parse_args()
    widths = [int(n) for n in options.widths.split(",")]
    header = {"date": strftime("%Y-%m-%d"), "questions": options.questions, "seeds": options.seeds}
    cells = Cells(options.out, header)
    with ProcessPoolExecutor(options.processes) as pool:
        closed_forms(pool, cells, widths, options.seeds)
        shapes(pool, cells, widths, options.questions)
    print(json.dumps(cells.content))


if __name__ == "__main__":
    main()
