"""What a vote with early exit costs against the full vote: tokens, steps, time, and the judge's own share of it.

    python bench/voting.py RUN                                    replays a stored run of the rule majority
    python bench/voting.py RUN --live 60 --rule ahead:k=3         asks the model: full vote and rule in one process

Replays take exactly the tokens and steps of a live run (a test holds them against one), so time is measured live only,
on the run's own first questions and settings. Prints a table, and one line of JSON last.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from fastsample.evaluation.report import _play, read_run, report_of, settings_of
from fastsample.strategies import self_consistency
from fastsample.voting.registry import rule_of

GROWTHS = (1.0, 1.25, 1.5, 2.0, 3.0)


def sweep(folder: Path, rules: list[str]) -> list[dict[str, Any]]:
    """Tokens and steps of each rule for every growth of its waves."""
    config, keys, stored = read_run(folder)
    settings = settings_of(config)
    samples = [stored[q] for q in keys if len(stored.get(q, {})) == len(settings.plan())]
    before, rows = self_consistency.GROWTH, []
    try:
        for text in rules:
            for growth in GROWTHS:
                self_consistency.GROWTH = growth
                played = _play(samples, settings, rule_of(text), config["slots"])
                rows.append({"rule": text, "growth": growth, "tokens": played.tokens, "steps": played.steps})
                print(f"{text:24} waves x {growth:<5} {played.tokens:>9,} tokens {played.steps:>6,} steps")
    finally:
        self_consistency.GROWTH = before
    return rows


def live(folder: Path, rules: list[str], questions: int, model: str | None) -> list[dict[str, Any]]:
    """The full vote and each rule on the same questions; `own` is the time outside the model's steps."""
    import torch

    from fastsample.engines.local.engine import LocalEngine
    from fastsample.evaluation.dataset import read_questions
    from fastsample.models.loading import load
    from fastsample.solving.solve import solve_many
    from fastsample.strategies.question import Question, Settings

    torch.set_num_threads(1)
    config = json.loads((folder / "config.json").read_text())
    settings = settings_of(config)
    lm, tokenizer = load(model or config["model"])
    with open(folder / "questions.jsonl", encoding="utf-8") as file:
        items, _ = read_questions(file)
    # Every second question and so on, so that a file of several sets is covered evenly.
    items = items[:: max(1, len(items) // questions)][:questions]

    class Timed(LocalEngine):
        inside = 0.0

        def step(self):
            start = process_time()
            try:
                return super().step()
            finally:
                self.inside += process_time() - start

    rows: list[dict[str, Any]] = []
    LocalEngine(lm, tokenizer)  # what is found out about a model once is not part of a run
    for text in ["majority", *rules]:
        engine = Timed(lm, tokenizer, slots=config["slots"])
        start, cpu = perf_counter(), process_time()
        asked = [Question(i.question, i.id) for i in items]
        chosen = Settings(**{**settings.__dict__, "rule": rule_of(text)})
        answers = {
            r.id: (r.answer, r.tokens)
            for r in solve_many(lm, tokenizer, asked, settings=chosen, extractor=config["extractor"], engine=engine)
        }
        total = process_time() - cpu
        rows.append(
            {
                "rule": text,
                "tokens": sum(tokens for _, tokens in answers.values()),
                "steps": engine.steps,
                "seconds": perf_counter() - start,
                "cpu_seconds": total,
                "own_share": 1 - engine.inside / total,
            }
        )
        row, full = rows[-1], rows[0]
        shares = [row[name] / full[name] for name in ("tokens", "steps", "seconds", "cpu_seconds")]
        print(
            f"{text:24} {row['tokens']:,} tokens, {row['steps']:,} steps, {row['seconds']:.1f} s, {total:.1f} s of CPU"
        )
        print(f"    of the full vote: {' '.join(f'{100 * share:.0f} %' for share in shares)};", end=" ")
        print(f"own work {100 * row['own_share']:.2f} % of the time", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--rule", action="append", help="repeatable; beta and ahead:k=3 where left out")
    parser.add_argument("--live", type=int, metavar="N", help="ask the model N of the run's questions")
    parser.add_argument("--model", help="another model than the run's")
    args = parser.parse_args()
    rules = args.rule or ["beta", "ahead:k=3"]
    print(f"python {platform.python_version()}, {platform.machine()}")
    if args.live:
        result = {"live": live(args.run, rules, args.live, args.model)}
    else:
        page = report_of(args.run)
        for row in page.rows:
            print(
                f"{row.rule:36} {100 * row.accuracy:5.1f} % right ({100 * row.difference:+.1f}, 95 %"
                f" {100 * row.difference_low:+.1f} to {100 * row.difference_high:+.1f}) {row.samples:5.1f} samples"
                f" {row.tokens:6.0f} tokens ({100 * row.token_share:3.0f} %) {row.steps:6,} steps"
                f" ({100 * row.step_share:3.0f} %)"
            )
        print(page.verdict)
        shown = ("rule", "accuracy", "difference", "tokens", "token_share", "steps", "step_share")
        result = {"rows": [{k: getattr(r, k) for k in shown} for r in page.rows], "sweep": sweep(args.run, rules)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
