"""A sample's place in the batch, and what is drawn from for it: parameters as columns, rows edited before the draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ...models.forward import Prefix
from ...sampling.contract import STATUS, row_status
from ...token_stats import TokenStats
from ..base import Sample
from .detokenizer import Detokenizer

COLUMNS = (
    ("temperature", torch.float32),
    ("top_k", torch.int64),
    ("top_p", torch.float32),
    ("min_p", torch.float32),
    ("seed", torch.int64),
    ("stream", torch.int64),
)


@dataclass(eq=False)
class Row:
    """A sample in the batch: what it continues, its text so far, what ends it."""

    sample: Sample
    prefix: Prefix
    detokenizer: Detokenizer
    eos: frozenset[int]
    limit: int
    failure: str | None = None  # why no token can be drawn for it any more


def first_logits(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """The rows' prefixes' last logits, one row a prefix ([G, V]), and which of them each row reads ([B])."""
    prefixes = list({id(row.prefix): row.prefix for row in rows}.values())
    place = {id(prefix): g for g, prefix in enumerate(prefixes)}
    logits = torch.cat([p.logits for p in prefixes])
    return logits, torch.tensor([place[id(row.prefix)] for row in rows], device=logits.device)


def columns_of(rows: Sequence[Row], device: torch.device) -> dict[str, Any]:
    """The arguments of `sample` for these rows, [B] each."""
    requests = [row.sample.request for row in rows]
    columns: dict[str, Any] = {
        name: torch.tensor([getattr(r, name) for r in requests], dtype=dtype, device=device) for name, dtype in COLUMNS
    }
    positions = [len(row.sample.request.prompt) + len(row.sample.tokens) for row in rows]
    columns["position"] = torch.tensor(positions, dtype=torch.int64, device=device)
    return columns


def is_edited(s: Sample) -> bool:
    """Whether something changes the model's row before the draw: a processor, or EOS forbidden for now."""
    return bool(s.request.logits_processor) or len(s.tokens) < s.request.min_new_tokens


def edit(scores: Tensor, row: Row) -> Tensor:
    """scores [V] after the sample's own processors and its minimum length."""
    request, tokens = row.sample.request, row.sample.tokens
    if request.logits_processor:
        ids = torch.tensor([[*request.prompt, *tokens]], device=scores.device)
        scores = request.logits_processor(cast(Any, ids), cast(Any, scores[None].clone()))[0]
    if len(tokens) < request.min_new_tokens and row.eos:
        scores = scores.index_fill(0, torch.tensor(sorted(row.eos), device=scores.device), -torch.inf)
    return scores


def edit_all(rows: Sequence[Row], logits: Tensor, indices: Tensor | None) -> tuple[Tensor, dict[int, RawRow]]:
    """The rows' logits [B, V] as their requests edit them, and what the edited ones were before, by row.

    logits: [N, V], of which row b reads logits[b] or logits[indices[b]]; a copy is edited. A row whose own processor
    raises is marked as failed.
    """
    # A copy of our own, and a plain tensor: what inference mode made cannot be written to outside of it.
    logits, raw = logits.clone() if indices is None else logits[indices].clone(), {}
    for b, row in enumerate(rows):
        if is_edited(row.sample):
            raw[b] = RawRow.of(logits[b])
            try:
                logits[b] = edit(logits[b], row)
            except Exception as error:  # of somebody else's processor: it ends its own sample, not the batch
                row.failure = f"a logits processor failed: {type(error).__name__}: {error}"
    return logits, raw


def mark_invalid(rows: Sequence[Row], logits: Tensor, indices: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Mark the rows that nothing can be drawn from as failed; returns logits and indices with zeros in their place."""
    status = [row_status(line) for line in logits]
    places = range(len(rows)) if indices is None else indices.tolist()
    for row, place in zip(rows, places):
        if status[place]:
            row.failure = (
                row.failure or f"the model's logits for it must be finite or -inf, the row {STATUS[status[place]]}"
            )
    logits = logits.clone()
    logits[[i for i, code in enumerate(status) if code]] = 0
    return logits, indices


@dataclass(eq=False)
class RawRow:
    """The model's own row, before anything edits it: log-probabilities [V], entropy and self-certainty in nats."""

    logprobs: Tensor
    entropy: float
    self_certainty: float

    @classmethod
    def of(cls, scores: Tensor) -> RawRow:
        """scores: [V]"""
        x = scores.float()
        total = x.logsumexp(0)
        log_p = x - total
        entropy = -torch.where(log_p > -torch.inf, log_p * log_p.exp(), 0).sum()
        certainty = total - x.mean() - torch.log(torch.tensor(float(x.numel())))
        return cls(log_p, float(entropy), float(certainty))

    def stats_of(self, token: int, logprob: float) -> TokenStats:
        """The statistics of a token that was drawn with this log-probability from the edited row."""
        return TokenStats(logprob, float(self.logprobs[token]), self.entropy, self.self_certainty)
