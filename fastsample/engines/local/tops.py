"""The likeliest tokens of a place, and what the model says of a prompt's tokens, from logits that are there anyway."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import torch
from torch import Tensor

from ...token_stats import NO_TOPS, PromptStats, TopTokens

ROWS = 64  # rows of logits that are float32 at once: 39 MB for a vocabulary of 152,000


def tops_of(logits: Tensor, rows: Sequence[int], count: int) -> list[TopTokens]:
    """The `count` likeliest tokens of these rows of logits [N, V], with their log-probabilities."""
    found: list[TopTokens] = []
    for start in range(0, len(rows), ROWS):
        logprobs = logits[list(rows[start : start + ROWS])].float().log_softmax(-1)
        values, ids = logprobs.topk(count)
        found += [TopTokens(tuple(i), tuple(v)) for i, v in zip(ids.tolist(), values.tolist())]
    return found


def drawn_tops(counts: Sequence[int], logits: Tensor, indices: Tensor | None) -> dict[int, TopTokens]:
    """By row, for those that ask for some; row b has the model's own logits[b] or logits[indices[b]] of [N, V]."""
    asking = [b for b, count in enumerate(counts) if count]
    if not asking:
        return {}
    places = list(range(len(counts))) if indices is None else indices.tolist()
    found = tops_of(logits, [places[b] for b in asking], max(counts))
    return {b: top.first(counts[b]) for b, top in zip(asking, found)}


class PromptReader:
    """Called with the logits of a prompt's tokens, block by block as they are read; nothing of them is kept."""

    def __init__(self, prompt: Sequence[int], count: int) -> None:
        self.prompt = tuple(prompt)
        self.count = count
        self._logprobs = [nan]
        self._tops = [NO_TOPS]

    @torch.inference_mode()
    def __call__(self, logits: Tensor) -> None:
        """logits: [n, V], after each of the next n tokens of the prompt; those after the last of all say nothing."""
        first = len(self._logprobs)
        follow = self.prompt[first : first + len(logits)]
        for start in range(0, len(follow), ROWS):
            ids = torch.tensor(follow[start : start + ROWS], device=logits.device)
            logprobs = logits[start : start + len(ids)].float().log_softmax(-1)
            self._logprobs += logprobs.gather(1, ids[:, None])[:, 0].tolist()
        self._tops += tops_of(logits, range(len(follow)), self.count) if self.count else [NO_TOPS] * len(follow)

    @property
    def stats(self) -> PromptStats:
        """What was told so far."""
        return PromptStats(tuple(self._logprobs), tuple(self._tops), self.count)
