"""The rows that samplers are timed on: a model's own, Zipf-like ones, and flat noise."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

TEXT = """A train leaves the station at nine in the morning and travels at sixty miles an hour. Two hours later a second
train leaves the same station on a parallel track at ninety miles an hour. Let t be the time in hours after the second
train leaves. The first train is then 60 (t + 2) miles away and the second 90 t, so they meet when 60 t + 120 = 90 t,
which gives t = 4 hours. The answer is one o'clock + two hours = three in the afternoon. Check: 6 * 60 = 4 * 90."""


def zipf(rows: int, vocab: int) -> Tensor:
    """[rows, vocab] float32: logits -1.2 ln(rank), shuffled, with a little noise: a heavy-tailed model-like row."""
    rng = np.random.default_rng(0)
    ranked = -1.2 * np.log(np.arange(1, vocab + 1))
    return torch.from_numpy(
        np.stack([rng.permutation(ranked) + 0.5 * rng.normal(size=vocab) for _ in range(rows)]).astype(np.float32)
    )


def flat(rows: int, vocab: int) -> Tensor:
    """[rows, vocab] float32: normal noise, where a nucleus of p = 0.9 holds most of the vocabulary."""
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(0))


def real(rows: int, vocab: int) -> Tensor | None:
    """[rows, vocab] float32: SmolLM2's logits over a text, one row a position; None for another vocabulary."""
    if vocab != 49152:
        return None
    from fastsample import models

    model, tokenizer = models.load()
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.inference_mode():
        logits = model(ids).logits[0].float()
    return logits[8 : 8 + rows].clone()  # behind the first words, which could be anything


KINDS = {"real": real, "zipf": zipf, "flat": flat}
