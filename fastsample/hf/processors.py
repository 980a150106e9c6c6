"""Logits processors for `generate`: one that draws the token of each row itself, and one that only filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from ..models import loops
from ..sampling.api import distribution, sample
from ..sampling.values import IntParameter, Parameter


class FastSampler(LogitsProcessor):
    """Draws the token of each row itself: parameters per row, and the same token whatever the batch.

    temperature, top_k, top_p, min_p, seed, stream: one value, or one for each row (prompts x num_return_sequences), as
        in `fastsample.sample`; stream None = the row's number; without seed and stream the noise is fresh
    pad_token_id: of left-padded batches that `generate` has no attention mask of: a row's positions do not count its
        padding

    It returns new scores: the token's own log-probability at the token, -inf elsewhere. So both `do_sample=False`
    (which saves a softmax) and `do_sample=True` choose exactly it, whatever warpers follow, and
    `compute_transition_scores` gives its log-probability (leave `generate`'s own temperature at 1, which would divide
    it). It keeps no state: one object serves any number of calls.

    raises: ValueError for arguments that do not fit the rows, under assisted generation, and under beam search
    """

    def __init__(
        self,
        *,
        temperature: Parameter = 1.0,
        top_k: IntParameter = 0,
        top_p: Parameter = 1.0,
        min_p: Parameter = 0.0,
        seed: IntParameter | None = None,
        stream: Sequence[int] | Tensor | None = None,
        pad_token_id: int | None = None,
    ) -> None:
        self.parameters: dict[str, Any] = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "seed": seed,
            "stream": stream,
        }
        self.is_fresh = seed is None and stream is None
        self.pad_token_id = pad_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """input_ids [B, L] int64, scores [B, V]; returns [B, V] in the dtype of the scores."""
        padding = default = None
        loop = loops.decoding_loop()
        if loop is not None:
            kind, names = loop
            if kind in REFUSED:
                raise ValueError(REFUSED[kind])
            padding, default = loops.padding_in(names), names["generation_config"].pad_token_id
        position = None if self.is_fresh else _lengths(input_ids, padding, self.pad_token_id, default)
        tokens, stats = sample(scores, position=position, return_stats=True, **self.parameters)
        chosen = torch.full_like(scores, -torch.inf)
        return chosen.scatter_(1, tokens.clamp(min=0)[:, None], stats.logprob[:, None].to(scores.dtype))


class PerRowWarper(LogitsProcessor):
    """Filters only, with parameters per row, and leaves the draw to `generate(do_sample=True, top_k=0)`.

    temperature, top_k, top_p, min_p: one value, or one for each row, as in `fastsample.sample`
    """

    def __init__(
        self,
        *,
        temperature: Parameter = 1.0,
        top_k: IntParameter = 0,
        top_p: Parameter = 1.0,
        min_p: Parameter = 0.0,
    ) -> None:
        self.parameters: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """scores [B, V]; returns the log-probabilities of the kept tokens, -inf for the others."""
        return distribution(scores, **self.parameters).log().to(scores.dtype)


def _lengths(input_ids: Tensor, padding: Tensor | int | None, pad: int | None, default: int | None) -> Tensor | int:
    """The number of tokens of each row without its padding on the left, [B], or of all rows.

    padding: what the loop that calls is sure of, None = nothing; pad: the caller's padding token; default: the model's,
    which may also begin a text
    """
    if padding is not None:
        return input_ids.shape[1] - padding
    if pad is not None:
        return (input_ids != pad).int().cummax(1).values.sum(1)
    if default is not None and bool((input_ids[:, 0] == default).any()):
        row = int((input_ids[:, 0] == default).nonzero()[0])
        raise ValueError(
            f"FastSampler must tell padding from text, and row {row} begins with the padding token {default} without "
            "an attention mask; name pad_token_id"
        )
    return input_ids.shape[1]


REFUSED = {
    "assisted": "FastSampler draws every token itself, which leaves nothing to verify in assisted generation; "
    "call generate without an assistant model and without prompt lookup",
    "beams": "FastSampler draws one token a row, which leaves beams nothing to choose from; "
    "call generate with num_beams = 1",
}
