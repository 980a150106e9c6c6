"""What a request must be before anything is started; every refusal says rule, value and remedy."""

from __future__ import annotations

from collections.abc import Sequence
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
    for name in ("prompt", "append", "until_ids"):
        check_ids(name, getattr(request, name), vocabulary)
    if len(prompt) >= context:
        raise ValueError(
            f"prompt must leave room in the model's context of {context} tokens, got {len(prompt)}; shorten it"
        )
    if len(prompt) + len(request.append) >= context:
        raise ValueError(
            f"append must leave room in the model's context: {context} tokens leave {context - len(prompt) - 1} behind "
            f"the prompt, got {len(request.append)}; shorten it"
        )
    if request.max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {request.max_new_tokens}")
    if not 0 <= request.min_new_tokens <= request.max_new_tokens:
        raise ValueError(
            f"min_new_tokens must be in [0, max_new_tokens = {request.max_new_tokens}], got {request.min_new_tokens}"
        )
    for name in ("stop", "until"):
        strings = getattr(request, name)
        if isinstance(strings, str):
            raise TypeError(f"{name} must be a tuple of strings, got the string {strings!r}; write ({strings!r},)")
        if "" in strings:
            raise ValueError(f"{name} strings must not be empty, got ''; leave it out")
        if strings and tokenizer is None:
            raise ValueError(f"{name} strings need the tokenizer, got {strings!r} without one; pass the tokenizer")
    most = vocabulary or request.top_logprobs
    if type(request.top_logprobs) is not int or not 0 <= request.top_logprobs <= most:
        raise ValueError(
            f"top_logprobs must be a whole number in [0, {vocabulary or 'the vocabulary'}], got "
            f"{request.top_logprobs!r}; 5 tells the five likeliest tokens of every step"
        )
    if request.prompt_logprobs and request.after is not None:
        raise ValueError(
            "prompt_logprobs are of a prompt that is read, and `after` continues one that was; leave one out"
        )
    both = sorted(set(request.stop) & set(request.until))
    if both:
        raise ValueError(f"a string must be in stop or in until, got {both[0]!r} in both; take it out of one")
    if request.legs < 1:
        raise ValueError(f"legs must be at least 1, got {request.legs}; 1 ends at the first delimiter")
    if request.grammar is not None and not callable(request.grammar):
        raise TypeError(
            f"grammar must be a function that makes a matcher, got {type(request.grammar).__name__}; write "
            "grammar=lambda: xgrammar.GrammarMatcher(compiled)"
        )
    check_ids("logit_bias", [token for token, _ in request.penalties.logit_bias], vocabulary)
    r = request
    Case.of(torch.zeros(1, 2), r.temperature, r.top_k, r.top_p, r.min_p, r.seed, [r.stream or 0], 0, None)


def check_ids(name: str, ids: Sequence[Any], vocabulary: int | None = None) -> None:
    """Raise TypeError or ValueError for what are no token ids of the model; name: of the argument."""
    for place, token in enumerate(ids):
        if type(token) is not int:
            raise TypeError(f"{name} must hold whole numbers, got {token!r} at place {place}; call the tokenizer first")
        if token < 0 or (vocabulary is not None and token >= vocabulary):
            raise ValueError(
                f"{name} must hold token ids in [0, {vocabulary or 'the vocabulary'}), got {token} at place {place}; "
                "use the model's own tokenizer"
            )
