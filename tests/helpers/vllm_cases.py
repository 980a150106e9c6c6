"""Requests for vLLM's stand-in, and the texts that they must have."""

from __future__ import annotations

import random

import vllm_standin

from fastsample import sample
from fastsample.engines.base import Request

PROMPTS = [(65, 66, 67), (68,), (69, 70, 71, 72, 73), (74, 75)]


def text_of(request):
    """What `fastsample.sample` writes for a request, token by token and alone."""
    tokens = []
    while len(tokens) < request.max_new_tokens and 0 not in tokens:
        ids = [*request.prompt, *tokens]
        drawn = sample(
            vllm_standin.row_of(ids)[None], temperature=request.temperature, top_k=request.top_k, top_p=request.top_p,
            min_p=request.min_p, seed=request.seed, stream=[request.stream], position=len(ids),
        )  # fmt: skip
        tokens.append(int(drawn))
    return tokens


def requests(count, seed=0):
    dice = random.Random(seed)
    return [
        Request(
            dice.choice(PROMPTS),
            temperature=dice.choice([0.0, 0.5, 1.0, 3.0]),
            top_k=dice.choice([0, 20]),
            top_p=dice.choice([1.0, 0.9]),
            min_p=dice.choice([0.0, 0.05]),
            seed=dice.choice([0, 7, -(2**40)]),
            stream=n,
            max_new_tokens=dice.randint(1, 20),
        )
        for n in range(count)
    ]
