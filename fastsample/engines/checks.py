"""What a request must be before anything is started; every refusal says rule, value and remedy."""

from __future__ import annotations

from typing import Any

import torch

from ..sampling.contract import Case
from .base import Request


def check_request(request: Request, context: int, tokenizer: Any, vocabulary: int | None = None) -> None:
    """Raise ValueError or TypeError for a request that cannot be served.

    context: tokens that the model's positions reach; vocabulary: token ids that the model can read, None = not known
    """
    prompt = request.prompt
    if len(prompt) == 0:
        raise ValueError("prompt must have at least one token, got none; begin with the tokenizer's BOS")
    for place, token in enumerate(prompt):
        if type(token) is not int:
            raise TypeError(f"prompt must hold whole numbers, got {token!r} at place {place}; call the tokenizer first")
        if token < 0 or (vocabulary is not None and token >= vocabulary):
            raise ValueError(
                f"prompt must hold token ids in [0, {vocabulary or 'the vocabulary'}), got {token} at place {place}; "
                "use the model's own tokenizer"
            )
    if len(prompt) >= context:
        raise ValueError(
            f"prompt must leave room in the model's context of {context} tokens, got {len(prompt)}; shorten it"
        )
    if request.max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {request.max_new_tokens}")
    if not 0 <= request.min_new_tokens <= request.max_new_tokens:
        raise ValueError(
            f"min_new_tokens must be in [0, max_new_tokens = {request.max_new_tokens}], got {request.min_new_tokens}"
        )
    if isinstance(request.stop, str):
        raise TypeError(f"stop must be a tuple of strings, got the string {request.stop!r}; write ({request.stop!r},)")
    if "" in request.stop:
        raise ValueError("stop strings must not be empty, got ''; leave it out")
    if request.stop and tokenizer is None:
        raise ValueError(f"stop strings need the tokenizer, got {request.stop!r} without one; pass the tokenizer")
    if request.after or request.append or request.until or request.until_ids or request.park or request.legs != 1:
        raise ValueError("this engine does not keep paths yet, got a request with after, append, until, legs or park")
    r = request
    Case.of(torch.zeros(1, 2), r.temperature, r.top_k, r.top_p, r.min_p, r.seed, [r.stream or 0], 0, None)
