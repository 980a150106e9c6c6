"""The plain path: one sample at a time, the whole text read again for every token, drawn with the same randomness."""

from __future__ import annotations

import torch

import fastsample
from fastsample.engines.base import Request

PROMPTS = (tuple(range(3, 33)), (1, 44, 9), (7,))
FILTERS = ("temperature", "top_k", "top_p", "min_p", "seed")


def requests(n=9, **changes):
    """Samples of three prompts at several temperatures and filters."""
    return [
        Request(
            PROMPTS[i % 3],
            temperature=(0.0, 0.7, 1.3)[(i % 2 + i // 6) % 3],
            top_p=(1.0, 0.9)[i % 2],
            top_k=(0, 0, 30)[i % 3],
            min_p=(0.0, 0.02)[i // 5 % 2],
            seed=11,
            stream=i,
            **{"max_new_tokens": 10 + 3 * i, **changes},
        )
        for i in range(n)
    ]


def write(model, request, eos=(2,)):
    """The tokens of one request, as the definition says."""
    tokens = []
    while len(tokens) < request.max_new_tokens:
        text = [*request.prompt, *tokens]
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([text]), use_cache=False).logits[:, -1].float()
        if request.logits_processor:
            scores = request.logits_processor(torch.tensor([text]), scores.clone())
        if len(tokens) < request.min_new_tokens:
            scores[:, list(eos)] = -torch.inf
        p = request.penalties
        names = {"repetition_penalty": p.repetition, "frequency_penalty": p.frequency, "presence_penalty": p.presence}
        edits = fastsample.Edits(prompts=[request.prompt], outputs=[tokens], logit_bias=dict(p.logit_bias), **names)
        filters = {name: getattr(request, name) for name in FILTERS}
        token = int(fastsample.sample(scores, stream=[request.stream], position=len(text), edits=edits, **filters))
        tokens.append(token)
        if token in eos:
            break
    return tokens


class Letters:
    """A tokenizer of single letters: token i is chr(i); 0, 1 and 2 are special; a few tokens are half a character."""

    eos_token_id = 2
    HALVES = "äö".encode()  # four tokens, 97 ... 100, of two bytes each

    def decode(self, ids, skip_special_tokens=True):
        raw = b""
        for i in ids:
            if i < 3:
                raw += b"" if skip_special_tokens else b"<%d>" % i
            else:
                raw += self.HALVES[i - 97 : i - 96] if i >= 97 else bytes([97 + i % 26])
        return raw.decode(errors="replace")
