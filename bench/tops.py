"""One round of TOPS (arXiv 2502.18080) on SmolLM2-135M: does it answer better, or shorter, after its own short answers?

    python bench/tops.py --out FOLDER [--learn 32] [--test 32] [--how random]

Sums of two numbers from 2 to 12, asked as a chat with two solved ones in front. The questions to learn from are asked
at three efforts (`efforts`), `tops` keeps the shortest right text of each, and the whole model is trained on these
(plain torch, AdamW at 1e-5, as in the paper). Before and after, the others are asked without a level, eight texts each.
All at temperature 0.5: at the paper's 1.0 this model was right in one text of twenty of larger sums, and wandered in
the others.
Differences are by question, of the same seeds, with 95 % intervals. Everything written is kept in FOLDER, and a script
that is started again goes on (the training is done again). --how random is the paper's control: a random right text.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from itertools import product
from pathlib import Path
from statistics import fmean

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measure import machine

from fastsample import models
from fastsample.evaluation.dataset import Item
from fastsample.evaluation.efforts import levels_of
from fastsample.evaluation.evaluate import evaluate
from fastsample.evaluation.metrics import mean_interval, paired_interval
from fastsample.evaluation.stored import read_config, read_items
from fastsample.evaluation.texts import texts_of
from fastsample.strategies.prompts import prompt_of
from fastsample.strategies.question import Settings
from fastsample.strategies.task import encode
from fastsample.training.adapters import Lesson, loss_of
from fastsample.training.preferences import lessons_of

RATE, BATCH, TEMPERATURE = 1e-5, 8, 0.5
SHOWN = "Question: How much is 3 + 4?\nAnswer: 3 + 4 = 7.\n\nQuestion: How much is 9 + 6?\nAnswer: 9 + 6 = 15.\n\n"
TEMPLATE = SHOWN + "Question: {question}\nAnswer:"


def items(count):
    """Sums, in an order that is drawn once."""
    sums = list(product(range(2, 13), repeat=2))
    random.Random(0).shuffle(sums)
    return [Item(f"{a}+{b}", f"How much is {a} + {b}?", str(a + b)) for a, b in sums[:count]]


def ask(model, tokenizer, asked, folder, strategy, limit):
    """Answer the questions into a folder, or go on with it."""
    return evaluate(
        model, tokenizer, asked, folder, settings=Settings(max_new_tokens=limit, prompt_template=TEMPLATE),
        strategy=strategy, extractor="number", named={"model": folder.name}, resume=folder.exists(),
    )  # fmt: skip


def shares(folder):
    """question -> (share of right texts, tokens of a text, tokens of a right one or None, share of cut texts)."""
    keys = {item.id: item.answer for item in read_items(folder)}
    by = {}
    for q, text in texts_of(folder, read_config(folder), keys):
        by.setdefault(q, []).append(text)
    found = {}
    for q, mine in sorted(by.items()):
        right = [t.tokens for t in mine if t.is_right]
        cut = fmean(t.is_cut for t in mine)
        found[q] = fmean(t.is_right for t in mine), fmean(t.tokens for t in mine), fmean(right) if right else None, cut
    return found


def trained(model, tokenizer, rows, epochs):
    """Train the whole model on the rows of an sft.jsonl; returns the mean loss of each epoch, in nats a token."""
    lessons = []
    for row in rows:
        question, answer = (message["content"] for message in row["messages"][-2:])
        prompt = prompt_of(tokenizer, question)
        ids = (*encode(tokenizer, answer), tokenizer.eos_token_id)
        lessons.append(Lesson(prompt + ids, (False,) * len(prompt) + (True,) * len(ids)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    losses = []
    for epoch in range(epochs):
        order = random.Random(epoch).sample(lessons, len(lessons))
        mine = []
        for start in range(0, len(order), BATCH):
            loss = loss_of(model, order[start : start + BATCH])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            mine.append(loss.item())
        losses.append(fmean(mine))
    return losses


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder that everything is kept in")
    parser.add_argument("--learn", type=int, default=32, help="questions that are learnt from")
    parser.add_argument("--test", type=int, default=32, help="others that are judged by")
    parser.add_argument("--samples", type=int, default=4, help="at each effort; twice as many of the others")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32, help="the longest text")
    parser.add_argument("--how", default="shortest", help="which right text is learnt: shortest, or random")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    everything = items(given.learn + given.test)
    own, others = everything[: given.learn], everything[given.learn :]
    model, tokenizer = models.load(dtype="float32", progress=lambda line: None)
    start = time.process_time()
    plain = f"best:n={2 * given.samples},how=vote,temperatures={TEMPERATURE}"
    ask(
        model,
        tokenizer,
        own,
        given.out / "efforts",
        f"efforts:n={given.samples},temperature={TEMPERATURE}",
        given.tokens,
    )
    for level in levels_of(given.out / "efforts"):
        right_tokens = "none" if level.right_tokens is None else f"{level.right_tokens:.0f}"
        print(f"  {level.name:6} {level.right:6.1%} right, {level.tokens:3.0f} tokens, of a right one {right_tokens}; "
              f"{level.cut:.0%} cut; the shortest right text of {level.shortest} questions", flush=True)  # fmt: skip
    ask(model, tokenizer, others, given.out / "before", plain, given.tokens)
    lessons = lessons_of([given.out / "efforts"], how=given.how)
    rows = lessons.files.get("sft", [])
    told = {"machine": machine(), "learn": len(own), "test": len(others), "lessons": len(rows), "how": given.how}
    told |= {"levels": [vars(level) for level in levels_of(given.out / "efforts")], "losses": [], "rows": {}}
    if not rows:
        print(f"  none of {lessons.questions} questions has a right text to learn from; ask more")
        print(json.dumps(told | {"seconds": time.process_time() - start}))
        return
    losses = trained(model, tokenizer, rows, given.epochs)
    print(f"  {len(rows)} of {lessons.questions} questions have a right text to learn; loss {losses[0]:.3f} to "
          f"{losses[-1]:.3f}", flush=True)  # fmt: skip
    ask(model, tokenizer, others, given.out / f"after-{given.how}", plain, given.tokens)
    before, after = shares(given.out / "before"), shares(given.out / f"after-{given.how}")
    told["losses"] = losses
    for place, name in enumerate(("right", "tokens", "of a right text", "cut")):
        both = [(before[q][place], after[q][place]) for q in before if None not in (before[q][place], after[q][place])]
        if not both:  # of right texts, where no question has one before and after
            continue
        old, new = ([pair[side] for pair in both] for side in (0, 1))
        gap = fmean(new) - fmean(old)
        row = {"before": fmean(old), "after": fmean(new), "difference": [gap, *paired_interval(new, old)]}
        told["rows"][name] = row | {"questions": len(both), "before_95": mean_interval(old)}
        low, high = row["difference"][1:]
        print(f"  {name:16} {row['before']:8.3f} to {row['after']:8.3f}: {gap:+.3f} ({low:+.3f} to {high:+.3f}, "
              f"{len(both)} questions)")  # fmt: skip
    told["seconds"] = time.process_time() - start
    print(json.dumps(told))


if __name__ == "__main__":
    main()
