"""A head on SmolLM2's own hidden states, made of its own texts: does it find the right ones among sixteen?

    python bench/head.py --out FOLDER [--questions 300]

Sums of three terms (`three_terms.py`), 196 to learn from and 300 others to judge by, sixteen texts of each at
temperature 0.6. A head is fitted to the first, its labels being the verdicts of its own texts. On the others: its area
under the curve over legs, beside that of their mean log-probability; and the share that is right of one text (the mean
of the sixteen), the vote, the best of sixteen by head and by log-probability, the vote weighted by the head, and a beam
of the same width by the head. Each difference to one text and to the vote has a 95 % interval, drawn by question.

Everything is kept in FOLDER, and a script that is started again goes on. The last line is JSON; it says how many
questions were asked, of how many every method has come to its end.
"""

from __future__ import annotations

import argparse
import json
import sys
from math import fsum
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measure import machine
from three_terms import EXTRACTOR, items, plain, settings

from fastsample import models
from fastsample.evaluation.evaluate import evaluate
from fastsample.evaluation.metrics import wilson
from fastsample.evaluation.stored import read_paths
from fastsample.scoring.head import Head
from fastsample.strategies.choice import choose
from fastsample.strategies.path import Path as Grown
from fastsample.training import heads
from fastsample.training.labels import FINAL, Labelled, labels_of
from fastsample.training.separation import area, area_by_question

ASKED = 300  # the questions behind these are learnt from
UNTIL = "\n"
WRITE = "best:n={n},how=vote,temperatures=0.6"
BEAM = "beam:n={n},m=4,until=\\n,temperatures=0.6"


def write(model, tokenizer, asked, folder, strategy, scorer=None):
    """Answer the questions into a folder, or go on with it."""
    return evaluate(
        model, tokenizer, asked, folder, settings=settings(), extractor=EXTRACTOR, strategy=strategy, scorer=scorer,
        resume=folder.exists(),
    )  # fmt: skip


def fitted(model, tokenizer, out):
    """The head, from its file where there is one."""
    path = out / "head.safetensors"
    if not path.exists():
        labelled = list(labels_of(out / "own", tokenizer, until=UNTIL))
        legs = heads.legs_of(model, labelled, [heads.usual_layer(model)])
        heads.fit(legs, model, about={"labels": "outcome", "task": "sums of three terms"}).head.save(path)
    return Head.load(path)


def scored(model, tokenizer, head, folder, path, most):
    """question -> its texts, [tokens, [label, number of the head, log-probability] of each leg]; a line each."""
    known = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        record = json.loads(line)
        known[record["question"]] = record["texts"]
    by_question: dict[str, list[Labelled]] = {}
    for one in labels_of(folder, tokenizer, until=UNTIL):
        by_question.setdefault(one.question, []).append(one)
    with open(path, "a", encoding="utf-8") as file:
        for question, mine in list(by_question.items())[:most]:
            if question in known:
                continue
            texts = list(dict.fromkeys((one.prompt, one.tokens, one.ends, one.labels) for one in mine))
            legs = heads.legs_of(model, [Labelled(question, *text) for text in texts], [head.layer])
            numbers = iter(zip(legs.labels.tolist(), heads.scores_of(head, legs), legs.logprobs))
            by_text = {tokens: [next(numbers) for _ in ends] for _, tokens, ends, _ in texts}
            known[question] = [[list(one.tokens), by_text[one.tokens]] for one in mine]
            file.write(json.dumps({"question": question, "texts": known[question]}) + "\n")
            file.flush()
    return known


def finished(folder):
    """question -> (its finished paths, with answers and scores; the tokens of all its paths)."""
    found = {}
    for record in read_paths(folder):
        paths, spent = found.get(record["question"], ([], 0))
        ended = record["finish"] == "eos"
        if record["finish"] in FINAL:
            # a root of its own is enough for `choose`: it looks at ends, answers and scores
            paths.append(Grown(record["number"], Grown(0, None, ()), (), tuple(record["tokens"]), text=record["text"],
                               finish=record["finish"], answer=record["answer"],
                               scores=tuple(record["scores"])))  # fmt: skip
        found[record["question"]] = paths, spent + len(record["tokens"]) + ended
    return found


def chosen(texts, answers, numbers, how, scorer):
    """The answer that is chosen among texts with these numbers."""
    paths = [Grown(n + 1, Grown(0, None, ()), (), finish="eos", answer=answer, scores=() if mine is None else (mine,))
             for n, (_, answer, mine) in enumerate(zip(texts, answers, numbers))]  # fmt: skip
    return choose(paths, scorer, how).answer


def table(head, asked, tokenizer, out, legs):
    """method -> whether each question is right (or the share of its texts); and the tokens of a question."""
    written, beams = finished(out / "asked"), finished(out / "beam") if (out / "beam").exists() else {}
    splits = {}
    for one in labels_of(out / "asked", tokenizer, until=UNTIL):
        splits[one.question, one.tokens] = one.ends
    keys = {item.id: item.answer for item in asked}
    done = [q for q in keys if q in legs and q in written and q in beams]
    right = {name: [] for name in ("one", "any", "vote", "best by head", "best by head, min", "best by log-probability",
                                   "weighted by head", "beam", "beam, best by head")}  # fmt: skip
    tokens = {"vote": [], "beam": []}
    for q in done:
        paths, key = written[q][0], keys[q]
        by_text = {tuple(ids): numbers for ids, numbers in legs[q]}
        by_head = [by_text[p.tokens][-1][1] for p in paths]
        by_logprob = []
        for p in paths:
            ends = splits[q, p.tokens]
            sizes = [b - a for a, b in zip((0, *ends), ends)]
            by_logprob.append(fsum(n * leg[2] for n, leg in zip(sizes, by_text[p.tokens])) / sum(sizes))
        answers = [p.answer for p in paths]
        is_right = [answer == key for answer in answers]
        right["one"].append(sum(is_right) / len(is_right))
        right["any"].append(any(is_right))
        right["vote"].append(choose(paths, None, "vote").answer == key)
        right["best by head"].append(chosen(paths, answers, by_head, "best", head) == key)
        least = [min(leg[1] for leg in by_text[p.tokens]) for p in paths]
        right["best by head, min"].append(chosen(paths, answers, least, "best", head) == key)
        right["weighted by head"].append(chosen(paths, answers, by_head, "weighted", head) == key)
        right["best by log-probability"].append(chosen(paths, answers, by_logprob, "best", Plain) == key)
        right["beam"].append(choose(beams[q][0], head, "weighted").answer == key)
        right["beam, best by head"].append(choose(beams[q][0], head, "best").answer == key)
        tokens["vote"].append(written[q][1])
        tokens["beam"].append(beams[q][1])
    return done, right, tokens


class Plain:
    """What `choose` asks of a scorer whose numbers are no probabilities."""

    name = "mean-logprob"


def by_question(legs, done):
    """The head's area between right and wrong texts of one question, the mean over questions that have both."""
    areas = [area([mine[-1][1] for _, mine in legs[q]], [mine[-1][0] for _, mine in legs[q]]) for q in done]
    told = [one for one in areas if one == one]
    return sum(told) / len(told) if told else None


def difference(a, b, draws=4000):
    """The mean of a - b on the same questions, and its 95 % bootstrap interval."""
    values = np.asarray(a, float) - np.asarray(b, float)
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(draws, len(values)))].mean(1)
    return [float(values.mean()), *(float(q) for q in np.quantile(means, [0.025, 0.975]))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder that everything is kept in")
    parser.add_argument("--questions", type=int, default=ASKED, help=f"that are judged by, of {ASKED}")
    parser.add_argument("--learn", type=int, default=196, help="that are learnt from, of 196")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--stored", action="store_true", help="write nothing more: the table of what there is")
    given = parser.parse_args()
    everything = items()
    own, asked = everything[ASKED:][: given.learn], everything[:ASKED][: given.questions]
    model, tokenizer = models.load(progress=lambda line: None)
    tokenizer = plain(tokenizer)
    given.out.mkdir(parents=True, exist_ok=True)
    if not given.stored:
        write(model, tokenizer, own, given.out / "own", WRITE.format(n=given.samples))
        write(model, tokenizer, asked, given.out / "asked", WRITE.format(n=given.samples))
    head = fitted(model, tokenizer, given.out)
    if not given.stored:
        write(model, tokenizer, asked, given.out / "beam", BEAM.format(n=given.samples), head)
    most = 0 if given.stored else len(asked)
    legs = scored(model, tokenizer, head, given.out / "asked", given.out / "scored.jsonl", most)
    done, right, tokens = table(head, asked, tokenizer, given.out, legs)
    found = [(q, *leg) for q in done for _, mine in legs[q] for leg in mine]
    questions, labels, numbers, logprobs = ([row[place] for row in found] for place in range(4))
    areas = {"head": area_by_question(numbers, labels, questions), "log-probability": area_by_question(
        logprobs, labels, questions)}  # fmt: skip
    share = sum(labels) / len(found)
    print(f"{len(done)} questions of {len(asked)} have everything; {len(found):,} legs, {share:.1%} right")
    for name, one in areas.items():
        print(f"  AUC of the {name}: {one}")
    rows = []
    for name, values in right.items():
        share = sum(values) / len(values)
        low, high = (None, None) if name == "one" else wilson(sum(values), len(values))
        to_one, to_vote = difference(values, right["one"]), difference(values, right["vote"])
        spent = tokens["beam" if name.startswith("beam") else "vote"]
        each = sum(spent) / len(spent) / (given.samples if name == "one" else 1)
        rows.append({"method": name, "right": share, "low": low, "high": high, "over_one": to_one,
                     "over_vote": to_vote, "tokens": each})  # fmt: skip
        over = ", ".join(f"{100 * m:+.1f} ({100 * a:+.1f} to {100 * b:+.1f})" for m, a, b in (to_one, to_vote))
        print(f"  {name:24} {share:6.1%}  over one text and over the vote: {over}  {each:5.0f} tokens")
    within = by_question(legs, done)
    if within is not None:
        print(f"  between texts of one question, at their last leg: {within:.3f}")
    areas = {name: [one.value, one.low, one.high] for name, one in areas.items()}
    told = {"machine": machine(), "questions": len(done), "asked": len(asked), "samples": given.samples}
    told |= {"legs": len(found), "auc": areas, "within": within, "head": head.about, "rows": rows}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
