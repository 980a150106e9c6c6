"""Run folders without a model: made-up samples, kept by the package's own `open_run`."""

from __future__ import annotations

import random
from collections import Counter

from fastsample.evaluation.dataset import Item
from fastsample.evaluation.run_folder import open_run
from fastsample.strategies.plan import plan_of
from fastsample.strategies.records import Result, Written
from fastsample.token_stats import MeanStats

WORDS = (  # noqa: SIM905
    "the first number is twice as large so we add both and then take away what was counted before total per day "
    "apples boxes each costs half remaining therefore answer hours farmer train speed miles left sold gives which"
).split()


def written(number, temperature, k, text, answer, finish="eos", tokens=None, entropy=1.0):
    """One sample."""
    tokens = tokens or max(1, len(text.split()))
    return Written(
        number, temperature, k, 1000 + number, text, answer, tokens, finish, MeanStats(-0.5, -0.5, entropy, 9.0)
    )


def settings(temperatures=(0.0, 0.4, 0.8, 1.2), samples=13, **more):
    """A run's config.json."""
    named = {"model": "tiny/test-135M", "dtype": "float32", "slots": 64, "max_new_tokens": 256}
    return {"rule": "majority", "samples": samples, "temperatures": list(temperatures), **named, **more}


def keep(folder, items, samples, config):
    """A run of these items; samples[id] are written, and the result of each is its plain vote."""
    with open_run(folder, config, items) as run:
        for item in items:
            mine = samples.get(item.id)
            if mine is None:
                continue
            for sample in mine:
                run.add_sample(item.id, sample)
            votes = {}
            for s in mine:
                by = votes.setdefault(f"{s.temperature:g}", Counter())
                if s.is_finished and s.answer is not None:
                    by[s.answer] += 1
            total = sum(votes.values(), Counter())
            answer = total.most_common(1)[0][0] if total else None
            result = Result(
                id=item.id, question=item.question, answer=answer, status="budget", reason="the whole budget is spent",
                rule="majority", planned=len(mine), seed=0, votes={t: dict(c) for t, c in votes.items()},
                samples=tuple(mine), counted=len(mine), tokens=sum(s.tokens for s in mine),
            )  # fmt: skip
            run.add_result(result, item.answer, None if item.answer is None else answer == item.answer)
        run.add_costs(1000, 5000, sum(s.tokens for by in samples.values() for s in by), is_last=True)
    return folder


def made_up(folder, questions=120, samples=13, seed=0, words=60, skill=0.0, temperatures=(0.0, 0.4, 0.8, 1.2)):
    """A run like a small model's: easy and hard questions, cut samples at high temperatures, texts of about `words`."""
    rng = random.Random(seed)
    plan = plan_of(temperatures, samples)
    items, kept = [], {}
    for n in range(questions):
        key, ease = str(rng.randrange(2, 400)), min(0.95, max(0.02, rng.random() ** 1.5 + skill))
        words_of = " ".join(rng.choices(WORDS, k=24))
        items.append(Item(f"set-{n:03}", f"{words_of}. What is the answer to number {n}?", key))
        wrong = [str(rng.randrange(2, 400)) for _ in range(6)]
        kept[f"set-{n:03}"] = []
        for number, (t, k) in enumerate(plan):
            is_cut = rng.random() < 0.02 + 0.1 * t
            is_right = rng.random() < ease * (1 - 0.35 * t)
            answer = None if is_cut else key if is_right else rng.choice(wrong)
            text = " ".join(rng.choices(WORDS, k=max(3, round(rng.lognormvariate(0, 0.4) * words))))
            text = text + (" and so" if is_cut else f".\nThe answer is {answer}.")
            kept[f"set-{n:03}"].append(
                written(
                    number, t, k, text, answer, "length" if is_cut else "eos", entropy=(0.4 if is_right else 0.9) + t
                )
            )
    return keep(folder, items, kept, settings(temperatures, samples))
