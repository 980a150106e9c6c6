"""The log-probabilities of a plain request's tokens, as OpenAI's two routes show them: the model's own."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from ..engines.base import Sample

NEVER = -9999.0  # what OpenAI says for a token that cannot come: JSON has no infinity


class Spelling:
    """A tokenizer's tokens as texts of their own, each decoded once."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._known: dict[int, str] = {}

    @cached_property
    def _before(self) -> list[int]:
        # Some tokenizers drop the blank in front of a text's first word, so that a token is decoded behind another.
        return list(self.tokenizer("a", add_special_tokens=False)["input_ids"])

    def of(self, token: int) -> str:
        """Its text; a part of a character is written as U+FFFD."""
        text = self._known.get(token)
        if text is None:
            text = self._known[token] = self._decode([*self._before, token])[len(self._decode(self._before)) :]
        return text

    def _decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)

    def reach(self, sample: Sample) -> int:
        """How many of its tokens its text is made of: without the EOS and the stop string that ended it."""
        count = len(sample.tokens) - (sample.finish == "eos")
        if not sample.request.stop:
            return count
        decode = lambda n: self.tokenizer.decode(sample.tokens[:n], skip_special_tokens=True)  # noqa: E731
        found = bisect_left(range(count), len(sample.text), key=lambda n: len(decode(n)))
        while found < count and decode(found).endswith("\ufffd"):  # within a character
            found += 1
        return found


def shown(sample: Sample, spelling: Spelling, start: int = 0) -> list[dict[str, Any]]:
    """The tokens of its text from number `start` on, in OpenAI's form of a chat; all so far of one that is written."""
    return [_token(sample, n, spelling) for n in range(start, spelling.reach(sample))]


def _token(sample: Sample, n: int, spelling: Spelling) -> dict[str, Any]:
    top = sample.tops[n] if sample.tops else None
    likeliest = () if top is None else zip(top.ids, top.logprobs)
    return _said(spelling.of(sample.tokens[n]), sample.stats[n].raw_logprob) | {
        "top_logprobs": [_said(spelling.of(token), logprob) for token, logprob in likeliest]
    }


def _said(text: str, logprob: float) -> dict[str, Any]:
    is_part = "\ufffd" in text
    return {"token": text, "logprob": max(logprob, NEVER), "bytes": None if is_part else list(text.encode())}


def as_completion(tokens: Sequence[dict[str, Any]], before: int = 0) -> dict[str, Any]:
    """The same in the older form of /v1/completions; before: characters of the text in front of the first of them."""
    offsets = []
    for token in tokens:
        offsets.append(before)
        before += len(token["token"])
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [{top["token"]: top["logprob"] for top in token["top_logprobs"]} for token in tokens],
        "text_offset": offsets,
    }
