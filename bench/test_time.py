"""Puzzles with and without test-time training on SmolLM2-135M: does a model that learns from a puzzle answer it better?

    python bench/test_time.py --out FOLDER [--puzzles 24] [--steps 20]

Puzzles of reasoning-gym's arc_1d: a line of 8 to 12 colours, three pairs that show a rule. Both ways have the same
views and the same votes; only learning differs. The weights are held against their bytes before. Everything is kept in
FOLDER, and a script that is started again goes on. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measure import machine

from fastsample import models
from fastsample.training.adapters import Tuning
from fastsample.training.puzzle_run import answer_all, compared, read_answers
from fastsample.training.puzzles import puzzle_of


def arc_1d(count, seed=1):
    """Puzzles, all different."""
    import reasoning_gym

    found = []
    for n, entry in enumerate(reasoning_gym.create_dataset("arc_1d", seed=seed, size=count, min_size=8, max_size=12)):
        told = entry["metadata"]
        train, test = ([{name: [line] for name, line in pair.items()} for pair in pairs]
                       for pairs in (told["train_examples"], [told["test_example"]]))  # fmt: skip
        found.append(puzzle_of({"train": train, "test": test}, f"{n}-{told['task_name']}"))
    return found


def bytes_of(model):
    """A digest of every parameter."""
    digest = sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder that everything is kept in")
    parser.add_argument("--puzzles", type=int, default=24)
    parser.add_argument("--steps", type=int, default=Tuning.steps)
    parser.add_argument("--rate", type=float, default=Tuning.rate)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    puzzles = arc_1d(given.puzzles)
    model, tokenizer = models.load(dtype="float32", progress=lambda line: None)
    before = bytes_of(model)
    told = {"machine": machine(), "puzzles": len(puzzles), "rows": {}}
    for steps in (0, given.steps):
        out = given.out / f"steps{steps}.jsonl"
        start = time.process_time()
        score = answer_all(model, tokenizer, puzzles, out, tuning=Tuning(steps=steps, rate=given.rate), named={},
                           resume=out.exists())  # fmt: skip
        seconds = time.process_time() - start
        assert bytes_of(model) == before, "the weights were not put back"
        records = read_answers(out)[1]
        losses = [record["losses"] for record in records if record["losses"]]
        row = {"right": score.right, "first": score.first, "known": score.known, "seconds": seconds}
        row["grids"] = sum(r["grids"] for r in records) / sum(r["texts"] for r in records)
        row["loss"] = [sum(x[end] for x in losses) / len(losses) for end in (0, -1)] if losses else None
        told["rows"][steps] = row
        print(f"{steps:3} steps: {score}; {row['grids']:.0%} of the texts are grids; {seconds:.0f} s", flush=True)
    tests, gap, low, high = compared(given.out / f"steps{given.steps}.jsonl", given.out / "steps0.jsonl")
    told["difference"] = [gap, low, high]
    print(f"learning: {100 * gap:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}) on {tests} puzzles")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
