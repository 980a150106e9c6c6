"""The four verbs under a generator: prefill a prompt, add rows to it, step all rows, keep some of them.

An engine owns the K/V and the model's forward pass and nothing else: it knows no request, draws no token and decodes no
text. Rows are numbered 0 ... B-1 in the order in which they were added; `keep` renumbers them.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from .prefix_cache import plain_cache

Progress = Callable[[int, int], None]


@dataclass(eq=False)
class Prefix:
    """One prefilled prompt: its length in tokens, the logits after its last token ([1, V]) and its cache."""

    length: int
    logits: torch.Tensor
    cache: Any


class Forward:
    """The model's forward pass, asked for the last position's logits only and by the names that this model uses."""

    def __init__(self, model: Any) -> None:
        self.model = model
        names = inspect.signature(model.forward).parameters
        self.cache_name = "past_key_values" if "past_key_values" in names else "cache_params"
        self.has_positions = "position_ids" in names
        self.options: dict[str, Any] = {"use_cache": True, "return_dict": True}
        if "logits_to_keep" in names:
            self.options["logits_to_keep"] = 1
        self.device = model.get_input_embeddings().weight.device

    def __call__(self, ids: torch.Tensor, cache: Any, **more: Any) -> tuple[torch.Tensor, Any]:
        """ids: [B, n] int64; returns the logits of the last position, [B, V], and the cache."""
        out = self.model(input_ids=ids, **{self.cache_name: cache}, **self.options, **more)
        return out.logits[:, -1], getattr(out, self.cache_name)

    @torch.inference_mode()
    def prefill(self, prompt: Sequence[int], block: int, progress: Progress | None = None) -> Prefix:
        """Read a prompt once, `block` tokens at a time where the cache allows it (recurrent states do not)."""
        ids = torch.tensor([list(prompt)], dtype=torch.long, device=self.device)
        cache, splits = plain_cache(self.model)
        total = ids.shape[1]
        size = block if splits else total
        for start in range(0, total, size):
            logits, cache = self(ids[:, start : start + size], cache)
            if progress is not None:
                progress(min(start + size, total), total)
        # A copy: the view would keep the block's logits alive in models that cannot be asked for one position.
        return Prefix(total, logits.clone(), cache)


@dataclass(eq=False)
class _Cohort:
    """Rows that were forked together and so have one length and one cache."""

    cache: Any
    rows: int
    prefix: Prefix
    live: list[int] = field(default_factory=list)


class Engine(Protocol):
    """What a generator asks of an engine; see the two that follow."""

    is_shared: bool
    device: torch.device

    def prefill(self, prompt: Sequence[int], block: int, progress: Progress | None) -> Prefix: ...
    def add(self, prefix: Prefix, count: int) -> None: ...
    def step(self, tokens: torch.Tensor) -> torch.Tensor: ...
    def keep(self, order: Sequence[int]) -> None: ...


class ExpandedEngine:
    """Serves any model: one prefill, then the cache copied to every row (`reorder_cache` knows every layer type)."""

    is_shared = False

    def __init__(self, model: Any) -> None:
        self.forward = Forward(model)
        self.device = self.forward.device
        self.rows: list[tuple[_Cohort, int]] = []

    def prefill(self, prompt: Sequence[int], block: int = 512, progress: Progress | None = None) -> Prefix:
        return self.forward.prefill(prompt, block, progress)

    @torch.inference_mode()
    def add(self, prefix: Prefix, count: int) -> None:
        """Append `count` rows that continue `prefix`."""
        cache = copy.deepcopy(prefix.cache)
        cache.reorder_cache(torch.zeros(count, dtype=torch.long, device=self.forward.device))
        cohort = _Cohort(cache, count, prefix)
        self.rows += [(cohort, j) for j in range(count)]

    @torch.inference_mode()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens: [B] int64, the newest token of every row; returns the next logits, [B, V]."""
        order: dict[int, tuple[_Cohort, list[tuple[int, int]]]] = {}
        for row, (cohort, j) in enumerate(self.rows):
            order.setdefault(id(cohort), (cohort, []))[1].append((j, row))
        parts, where = [], []
        for cohort, members in order.values():
            rows = [row for _, row in sorted(members)]
            logits, cohort.cache = self.forward(tokens[rows, None], cohort.cache)
            parts.append(logits)
            where += rows
        if len(parts) == 1 and where == sorted(where):
            return parts[0]
        together = torch.cat(parts)
        return torch.empty_like(together).index_copy_(0, torch.tensor(where, device=together.device), together)

    @torch.inference_mode()
    def keep(self, order: Sequence[int]) -> None:
        """Row i becomes what row order[i] was; rows not named leave the batch and their memory with them."""
        kept = [self.rows[i] for i in order]
        members: dict[int, tuple[_Cohort, set[int]]] = {}
        for cohort, j in kept:
            members.setdefault(id(cohort), (cohort, set()))[1].add(j)
        renumbered: dict[tuple[int, int], int] = {}
        for cohort, alive in members.values():
            survivors = sorted(alive)
            renumbered.update({(id(cohort), j): new for new, j in enumerate(survivors)})
            if len(survivors) < cohort.rows:
                cohort.cache.reorder_cache(torch.tensor(survivors, device=self.forward.device))
                cohort.rows = len(survivors)
        self.rows = [(cohort, renumbered[id(cohort), j]) for cohort, j in kept]


def engine_for(model: Any) -> Engine:
    """The best engine that can serve the model."""
    return ExpandedEngine(model)
