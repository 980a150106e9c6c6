"""The samples of one call, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import nan
from typing import Any

import torch
from torch import Tensor

from ..engines.base import Sample
from ..token_stats import NO_TOPS, PromptStats, TopTokens


@dataclass(frozen=True)
class Batch:
    """n samples of each of P prompts: B = P x n rows, those of a prompt side by side.

    ids:          [B, L] int64, the new tokens, the one that ended the sample included; the padding token behind
    mask:         [B, L] bool, where there is a token
    logprobs:     [B, L] float32, nats: of the token under the distribution that it was drawn from; 0 behind the end
    raw_logprobs: [B, L] float32, nats: under the model alone, temperature 1 and nothing filtered; 0 behind the end
    prompt_ids:   [P, W] int64, padded on the left; prompt_mask: [P, W] bool
    prompt:       [B] int64, which prompt a row continues
    texts:        B texts; finish: B of "eos", "stop", "length", "cancelled", "failed"
    errors:       why a sample failed, by row
    n, seed:      (seed, streams [B] int64) name the rows: the same ones write the same texts again

    Where they were asked for, else None; of the model alone as raw_logprobs, the K likeliest with the likeliest first:
    top_ids, top_logprobs: [B, L, K] int64 and float32: what was likeliest in place of each token
    prompt_logprobs: [P, W] float32, nats: of the prompt's tokens; NaN at its first, 0 in front of it
    prompt_top_ids, prompt_top_logprobs: [P, W, K]: what was likeliest in place of these; NaN and 0 as there
    """

    ids: Tensor
    mask: Tensor
    logprobs: Tensor
    raw_logprobs: Tensor
    prompt_ids: Tensor
    prompt_mask: Tensor
    prompt: Tensor
    texts: tuple[str, ...]
    finish: tuple[str, ...]
    errors: dict[int, str]
    streams: Tensor
    n: int
    seed: int
    top_ids: Tensor | None = None
    top_logprobs: Tensor | None = None
    prompt_logprobs: Tensor | None = None
    prompt_top_ids: Tensor | None = None
    prompt_top_logprobs: Tensor | None = None

    @classmethod
    def of(cls, prompts: Sequence[tuple[int, ...]], samples: Sequence[Sample], n: int, seed: int, pad: int) -> Batch:
        """samples: B of them, those of a prompt side by side; pad: the padding token."""
        longest = max((len(s.tokens) for s in samples), default=0)
        ids = torch.full((len(samples), longest), pad)
        lengths = torch.tensor([len(s.tokens) for s in samples])
        logprobs, raw = torch.zeros(2, len(samples), longest)
        for b, s in enumerate(samples):
            count = len(s.tokens)
            ids[b, :count] = torch.tensor(s.tokens, dtype=torch.long)
            # An engine that tells no log-probabilities leaves NaN.
            for column, name in ((logprobs, "logprob"), (raw, "raw_logprob")):
                told = [getattr(token, name) for token in s.stats]
                column[b, :count] = torch.tensor((told + [nan] * count)[:count])
        width = max(map(len, prompts))
        asked = samples[0].request
        more: dict[str, Tensor] = {}
        if asked.top_logprobs:
            more |= _tops("top", [s.tops for s in samples], asked.top_logprobs, longest, pad)
        if asked.prompt_logprobs:
            more |= _of_prompts(prompts, [s.prompt_stats for s in samples], asked.top_logprobs, width, n, pad)
        return cls(
            ids=ids,
            mask=torch.arange(longest) < lengths[:, None],
            logprobs=logprobs,
            raw_logprobs=raw,
            prompt_ids=torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts]),
            prompt_mask=torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts]),
            prompt=torch.arange(len(prompts)).repeat_interleave(n),
            texts=tuple(s.text for s in samples),
            finish=tuple(s.finish or "cancelled" for s in samples),
            errors={b: s.error for b, s in enumerate(samples) if s.error is not None},
            streams=torch.tensor([s.request.stream for s in samples]),
            n=n,
            seed=seed,
            **more,
        )

    def __len__(self) -> int:
        return len(self.texts)

    def sequences(self) -> tuple[Tensor, Tensor]:
        """(prompt and sample together [B, W + L] int64, their mask [B, W + L] bool): what a forward pass reads."""
        prompts, mask = self.prompt_ids[self.prompt], self.prompt_mask[self.prompt]
        return torch.cat([prompts, self.ids], 1), torch.cat([mask, self.mask], 1)

    def to(self, device: Any) -> Batch:
        """The same with its tensors on another device."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {name: v.to(device) for name, v in held.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def to_list(self) -> list[dict[str, Any]]:
        """A dictionary for each row, of plain values, without padding; with top_ids and top_logprobs where asked."""
        lengths = self.mask.sum(1).tolist()
        tops = {name: t for name in ("top_ids", "top_logprobs") if (t := getattr(self, name)) is not None}
        return [
            {
                "prompt": int(self.prompt[b]),
                "number": b % self.n,
                "text": self.texts[b],
                "finish": self.finish[b],
                "ids": self.ids[b, :length].tolist(),
                "logprobs": self.logprobs[b, :length].tolist(),
                "raw_logprobs": self.raw_logprobs[b, :length].tolist(),
                "stream": int(self.streams[b]),
                "error": self.errors.get(b),
                **{name: t[b, :length].tolist() for name, t in tops.items()},
            }
            for b, length in enumerate(lengths)
        ]


def _tops(name: str, rows: Sequence[Sequence[TopTokens]], count: int, width: int, pad: int) -> dict[str, Tensor]:
    """{name}_ids and {name}_logprobs, [rows, width, count]; a place that says nothing has the padding token and NaN."""
    ids = torch.full((len(rows), width, count), pad)
    logprobs = torch.zeros(len(rows), width, count)
    for b, tops in enumerate(rows):
        for place, top in enumerate(tops):
            ids[b, place] = torch.tensor(top.ids or [pad] * count)
            logprobs[b, place] = torch.tensor(top.logprobs or [nan] * count)
    return {f"{name}_ids": ids, f"{name}_logprobs": logprobs}


def _of_prompts(
    prompts: Sequence[tuple[int, ...]], told: Sequence[PromptStats | None], count: int, width: int, n: int, pad: int
) -> dict[str, Tensor]:
    """What is said of the prompts, padded on the left; NaN where none of a prompt's n samples came to be written."""
    logprobs, tops = torch.zeros(len(prompts), width), []
    for p, prompt in enumerate(prompts):
        front = width - len(prompt)
        stats = next((t for t in told[p * n : (p + 1) * n] if t is not None), None)
        logprobs[p, front:] = torch.tensor([nan] * len(prompt) if stats is None else stats.logprobs)
        blank = TopTokens((pad,) * count, (0.0,) * count)
        tops.append([blank] * front + ([NO_TOPS] * len(prompt) if stats is None else list(stats.tops)))
    more = {"prompt_logprobs": logprobs}
    return more | _tops("prompt_top", tops, count, width, pad) if count else more
