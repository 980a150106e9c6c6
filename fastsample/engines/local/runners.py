"""The four verbs under an engine: prefill a prompt, add rows to it, step all rows, keep some of them.

A runner owns the K/V and the model's forward pass and nothing else: it knows no request, draws no token and decodes no
text. Rows are numbered 0 ... B-1 in the order in which they were added; `keep` renumbers them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

import torch

from ...models import attention, compat
from ...models.cache import SharedCache, prefix_of
from ...models.forward import Forward, OnPrefill, Prefix
from ...models.twin import Twin


class Runner(Protocol):
    """What an engine asks of a runner; see the three that follow.

    name:      what a user reads
    cost:      what being served by it costs, in words; "" for the best
    is_shared: whether rows can be added one by one without a forward pass of their own for each addition
    """

    name: ClassVar[str]
    cost: ClassVar[str]
    is_shared: ClassVar[bool]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        ...

    def prefill(self, prompt: Sequence[int], block: int = 512, progress: OnPrefill | None = None) -> Prefix:
        """Read a prompt once, `block` tokens at a time where that can be."""
        ...

    def add(self, prefix: Prefix, count: int) -> None:
        """Append `count` rows that continue `prefix`."""
        ...

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens: [B] int64, the newest token of every row; returns the next logits, [B, V]."""
        ...

    def keep(self, order: Sequence[int]) -> None:
        """Row i becomes what row order[i] was; rows not named leave the batch and their memory with them."""
        ...


class SharedPrefixRunner:
    """Serves attention models: each prompt's K/V stored once, and a tail per row."""

    name = "shared-prefix"
    cost = ""
    is_shared = True

    def __init__(self, model: Any, *, prepack: bool = False) -> None:
        self.forward = Forward(model, prepack=prepack)
        self.cache: SharedCache | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.forward.device

    def prefill(self, prompt: Sequence[int], block: int = 512, progress: OnPrefill | None = None) -> Prefix:
        """See `Runner`; of a layer with a window, only what a later token can see is kept."""
        prefix = self.forward.prefill(prompt, block, progress)
        return Prefix(prefix.length, prefix.logits, prefix_of(prefix.cache, prefix.length))

    def add(self, prefix: Prefix, count: int) -> None:
        """See `Runner`: nothing is copied."""
        self.forward.refresh()
        if self.cache is None:
            self.cache = SharedCache(prefix.cache)
        self.cache.add(prefix.cache, count)

    @torch.inference_mode()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `Runner`. A step that fails can be taken again: it writes to the same places."""
        cache = self.cache
        assert cache is not None
        lengths = cache.lengths
        if tokens.shape[0] != len(lengths):
            raise ValueError(f"tokens must have one value for each of the {len(lengths)} rows, got {tokens.shape[0]}")
        positions = torch.tensor(cache.positions, device=self.forward.device)[:, None]
        try:
            with attention.stepping(cache, drops_softcap=self.forward.twin.drops_softcap):
                logits, _ = self.forward(tokens[:, None], cache, positions, attention.NAME)
            if cache.is_ignored:
                name = type(self.forward.model).__name__
                raise attention.SharingError(f"{name} does not go through transformers' attention interface")
            return logits
        except BaseException:
            cache.lengths = lengths
            raise
        finally:
            cache.forget()

    @torch.inference_mode()
    def keep(self, order: Sequence[int]) -> None:
        """See `Runner`; cheap where holes are filled from the end."""
        if self.cache is not None:
            self.cache.keep(order)


@dataclass(eq=False)
class _Cohort:
    """Rows that were forked together and so have one length and one cache."""

    cache: Any
    rows: int


class ExpandedCacheRunner:
    """Serves any model: one prefill, then the cache copied to every row (`reorder_cache` knows every layer type)."""

    name = "expanded-cache"
    cost = "every sample holds a copy of the prompt, and a step over a long prompt takes several times longer"
    is_shared = False

    def __init__(self, model: Any, *, prepack: bool = False) -> None:
        self.forward = Forward(model, prepack=prepack)
        self.rows: list[tuple[_Cohort, int]] = []
        self._broken: str | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.forward.device

    def prefill(self, prompt: Sequence[int], block: int = 512, progress: OnPrefill | None = None) -> Prefix:
        """See `Runner`."""
        return self.forward.prefill(prompt, block, progress)

    @torch.inference_mode()
    def add(self, prefix: Prefix, count: int) -> None:
        """See `Runner`: the prompt's cache is copied `count` times."""
        self.forward.refresh()
        cache = copy.deepcopy(prefix.cache)
        cache.reorder_cache(torch.zeros(count, dtype=torch.long, device=self.forward.device))
        cohort = _Cohort(cache, count)
        self.rows += [(cohort, j) for j in range(count)]

    @torch.inference_mode()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `Runner`: one forward pass for each group of rows that were added together.

        raises: RuntimeError after a step that failed: the model's own caches cannot take back what it wrote to them
        """
        if self._broken is not None:
            raise RuntimeError(self._broken)
        try:
            return self._step(tokens)
        except BaseException as error:
            self._broken = (
                f"a step failed in the middle ({type(error).__name__}) and left the copied caches half written; "
                "make a new engine"
            )
            raise

    def _step(self, tokens: torch.Tensor) -> torch.Tensor:
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
        """See `Runner`."""
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


class RecomputeRunner:
    """Serves what has no cache that can be copied: reads every row's whole text again at every step."""

    name = "recompute"
    cost = (
        "every token costs a reading of the whole text so far, so a text of L tokens takes about L / 2 times the work"
    )
    is_shared = False

    def __init__(self, model: Any, *, prepack: bool = False) -> None:
        self.twin = Twin(model, is_fast=False)
        self.rows: list[list[int]] = []

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return cast(Any, self.twin.original).get_input_embeddings().weight.device

    @torch.inference_mode()
    def _logits(self, rows: list[list[int]]) -> torch.Tensor:
        ids = torch.tensor(rows, dtype=torch.long, device=self.device)
        return compat.last_logits(self.twin.model, ids)

    def prefill(self, prompt: Sequence[int], block: int = 512, progress: OnPrefill | None = None) -> Prefix:
        """See `Runner`; nothing is kept but the token ids."""
        if not self.twin.is_current():
            self.twin.renew()
        logits = self._logits([list(prompt)]).clone()
        if progress is not None:
            progress(len(prompt), len(prompt))
        return Prefix(len(prompt), logits, tuple(prompt))

    def add(self, prefix: Prefix, count: int) -> None:
        """See `Runner`."""
        self.rows += [list(prefix.cache) for _ in range(count)]

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `Runner`: one forward pass for each length of text."""
        rows = [[*row, token] for row, token in zip(self.rows, tokens.tolist())]
        by_length: dict[int, list[int]] = {}
        for b, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(b)
        logits = {b: line for g in by_length.values() for b, line in zip(g, self._logits([rows[b] for b in g]))}
        self.rows = rows
        return torch.stack([logits[b] for b in range(len(rows))])

    def keep(self, order: Sequence[int]) -> None:
        """See `Runner`."""
        self.rows = [self.rows[i] for i in order]
