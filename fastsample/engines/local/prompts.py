"""Prompts that were read, and what is read behind them before a sample begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from ...models.config import weights_version
from ...models.forward import OnPrefill, Prefix
from ..base import Sample
from .outcome import Refused
from .parked import ReleasedError, prefix_after
from .runners import Runner
from .tops import PromptReader

OnPrompt = Callable[[tuple[int, ...], int, int], None]  # (prompt, tokens read, tokens of the prompt)


class Prompts:
    """Each prompt is read once, and kept as long as a sample of it waits or runs, or a parked path goes on from it.

    weights: of the model when the prompts were read; tokens: that were read in all
    """

    def __init__(self, model: Any, runner: Runner) -> None:
        self.model = model
        self.runner = runner
        self.weights = weights_version(model)
        self.tokens = 0
        self._held: dict[tuple[int, ...], Prefix] = {}
        self._alive: WeakValueDictionary[tuple[int, ...], Prefix] = WeakValueDictionary()

    def keep_only(self, samples: Iterable[Sample]) -> None:
        """Let go of the prompts that none of these samples has; of all, where the model has got other weights."""
        weights = weights_version(self.model)
        if weights != self.weights:
            vars(self).update(weights=weights, _held={}, _alive=WeakValueDictionary())
        wanted = {s.request.prompt for s in samples if s.request.after is None}
        self._held = {p: prefix for p, prefix in self._held.items() if p in wanted}

    def of(self, s: Sample, block: int, on_prefill: OnPrompt | None) -> Prefix | Refused:
        """What a sample that waited goes on from: what was parked, or its prompt, read where it has to be."""
        request = s.request
        if request.after is not None:
            try:
                return prefix_after(request, self.runner, self.weights)
            except ReleasedError as error:  # while it waited
                return Refused(s, str(error))
        progress = None if on_prefill is None else partial(on_prefill, request.prompt)
        return self.read(request.prompt, block, progress, request.top_logprobs if request.prompt_logprobs else None)

    def read(self, prompt: tuple[int, ...], block: int, progress: OnPrefill | None, tops: int | None = None) -> Prefix:
        """The prompt's prefix, as it is kept or read now; read again where it was not asked then what it says itself.

        tops: how many of the likeliest tokens are to be told of each of the prompt's; None tells nothing of them
        """
        prefix = self._held.get(prompt) or self._alive.get(prompt)
        if prefix is not None and tops is not None and (prefix.told is None or prefix.told.most < tops):
            prefix = None
        count = 0 if prefix is not None else len(prompt)
        if prefix is None:
            reader = None if tops is None else PromptReader(prompt, tops)
            prefix = self.runner.prefill(prompt, block, progress, reader)
            prefix.told = None if reader is None else reader.stats
            self._alive[prompt] = prefix
        vars(self).update(_held=self._held | {prompt: prefix}, tokens=self.tokens + count)
        return prefix


def extended(runner: Runner, wanted: Sequence[tuple[Prefix, Sequence[int]]]) -> tuple[list[Prefix], int]:
    """Each prefix with the tokens that are put behind it, read together where equally many; and the passes it took."""
    different = {(id(prefix), tuple(tokens)): (prefix, tokens) for prefix, tokens in wanted if tokens}
    found: dict[tuple[int, tuple[int, ...]], Prefix] = {}
    lengths = sorted({len(tokens) for _, tokens in different})
    for n in lengths:
        keys = [key for key in different if len(key[1]) == n]
        grown = runner.extend([different[key][0] for key in keys], [different[key][1] for key in keys])
        found |= dict(zip(keys, grown))
    return [found.get((id(prefix), tuple(tokens)), prefix) for prefix, tokens in wanted], len(lengths)
