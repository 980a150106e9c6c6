"""Drives an engine through a random schedule of adding, stepping and dropping rows, and judges every logit."""

from __future__ import annotations

import copy
import random

import torch
from tiny import VOCAB


def drive(engine, prompts, *, seed=0, steps=8, rows=3, retires=True):
    """Random tokens for random rows: returns [(text, logits [V]), ...] for every logit that the engine gave."""
    choose = random.Random(seed)
    prefixes = [engine.prefill(p, 100, None) for p in prompts]
    seen = [(list(p), prefix.logits[0].clone()) for p, prefix in zip(prompts, prefixes)]
    texts = []
    for step in range(steps):
        if step % 3 == 0:  # refill: a prompt's rows join the ones that are under way
            which = choose.randrange(len(prompts)) if step else 0
            engine.add(prefixes[which], rows)
            texts += [list(prompts[which]) for _ in range(rows)]
        if retires and step % 3 == 2:  # retire, in any order
            order = choose.sample(range(len(texts)), choose.randint(1, len(texts) - 1))
            engine.keep(order)
            texts = [texts[i] for i in order]
        for text in texts:
            text.append(choose.randrange(3, VOCAB))
        logits = engine.step(torch.tensor([text[-1] for text in texts]))
        seen += [(list(text), row.clone()) for text, row in zip(texts, logits)]
    return seen


def drive_paths(runner, prompts, *, seed=0, rounds=6, rows=2):
    """A tree that grows at random: rows are parked, gone on from, extended and cut; [(text, logits [V]), ...]."""
    choose = random.Random(seed)
    known = []  # (text, prefix) of everything that can be gone on from
    seen = []

    def keep(text, prefix):
        known.append((list(text), prefix))
        seen.append((list(text), prefix.logits[0].clone()))

    for prompt in prompts:
        keep(prompt, runner.prefill(prompt, 100, None))
    for _ in range(rounds):
        texts, bases = [], []
        for text, prefix in choose.sample(known, min(2, len(known))):
            runner.add(prefix, rows)
            texts += [list(text) for _ in range(rows)]
            bases += [prefix] * rows
        lengths = [0] * len(texts)
        for _ in range(choose.randint(1, 9)):
            for text in texts:
                text.append(choose.randrange(3, VOCAB))
            logits = runner.step(torch.tensor([text[-1] for text in texts]), lengths)
            lengths = [n + 1 for n in lengths]
        seen += [(list(text), row.clone()) for text, row in zip(texts, logits)]
        for b in choose.sample(range(len(texts)), 2):
            keep(texts[b], runner.park(b, bases[b], logits[b]))
        runner.keep([])
        more = [[choose.randrange(3, VOCAB) for _ in range(choose.choice((1, 2, 15)))]] * 2
        behind = choose.sample(known, 2)
        for (text, _), new, grown in zip(behind, more, runner.extend([prefix for _, prefix in behind], more)):
            keep([*text, *new], grown)
        text, prefix = choose.choice(known)
        shorter = text[: choose.randint(1, len(text))]
        keep(shorter, runner.cut(prefix, shorter, 100)[0])
        text, prefix = choose.choice(known)
        new = [choose.randrange(3, VOCAB) for _ in range(4)]
        seen += [([*text, *new[:i]], row.clone()) for i, row in enumerate(runner.read(prefix, new))]
    return seen


def alone(model, seen):
    """What the model says after each text, read alone and whole; one pass serves the texts that it begins with."""
    want = {}
    for text in sorted({tuple(text) for text, _ in seen}, key=len, reverse=True):
        if text not in want:
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([text]), use_cache=False).logits[0]
            want.update({text[: i + 1]: logits[i] for i in range(len(text))})
    return [want[tuple(text)] for text, _ in seen]


def errors(model, seen):
    """The largest error of the engine and of the model itself in its own precision, both against float64 weights."""
    exact = copy.deepcopy(model).double()
    if exact._can_set_experts_implementation():
        exact.set_experts_implementation("eager")  # the others have no float64
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # some models fill tensors of no dtype with the smallest float64
    try:
        truth = alone(exact, seen)
    finally:
        torch.set_default_dtype(before)
    naive = max(float((a - b).abs().max()) for a, b in zip(alone(model, seen), truth))
    ours = torch.stack([(row - b).abs().max() for (_, row), b in zip(seen, truth)])
    assert not ours.isnan().any()
    return float(ours.max()), naive


def prompts_of(length):
    """Two prompts, of `length` and about half of it."""
    return [[3 + (11 * i + 7 * k) % (VOCAB - 3) for i in range(n)] for k, n in enumerate((length, length // 2 + 1))]
