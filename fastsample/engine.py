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

from .linear import Linears
from .prefix_cache import SharedCache, SharedPrefix, configs_of, plain_cache, sharing

Progress = Callable[[int, int], None]


@dataclass(eq=False)
class Prefix:
    """One prefilled prompt: its length in tokens, the logits after its last token ([1, V]) and its cache."""

    length: int
    logits: torch.Tensor
    cache: Any


class Forward:
    """The model's forward pass, asked for the last position's logits only and by the names that this model uses."""

    def __init__(self, model: Any, *, prepack: bool = False) -> None:
        self.model = model
        self.linears = Linears(model, prepack=prepack)
        names = inspect.signature(model.forward).parameters
        self.cache_name = "past_key_values" if "past_key_values" in names else "cache_params"
        self.takes_positions = "position_ids" in names
        self.options: dict[str, Any] = {"use_cache": True, "return_dict": True}
        if "logits_to_keep" in names:
            self.options["logits_to_keep"] = 1
        self.device = model.get_input_embeddings().weight.device

    def __call__(self, ids: torch.Tensor, cache: Any, **more: Any) -> tuple[torch.Tensor, Any]:
        """ids: [B, n] int64; returns the logits of the last position, [B, V], and the cache."""
        with self.linears.fast():
            out = self.model(input_ids=ids, **{self.cache_name: cache}, **self.options, **more)
        return out.logits[:, -1], getattr(out, self.cache_name)

    @torch.inference_mode()
    def prefill(self, prompt: Sequence[int], block: int, progress: Progress | None = None) -> Prefix:
        """Read a prompt once, `block` tokens at a time where the cache allows it (recurrent states do not)."""
        ids = torch.tensor([list(prompt)], dtype=torch.long, device=self.device)
        cache, splits = plain_cache(self.model)
        total = ids.shape[1]
        size = block if splits else total
        if progress is not None and total > size:
            progress(0, total)
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

    def __init__(self, model: Any, *, prepack: bool = False) -> None:
        self.forward = Forward(model, prepack=prepack)
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


class SharedEngine:
    """Serves attention models: each prompt's K/V stored once, and a tail per row."""

    is_shared = True

    def __init__(self, model: Any, *, prepack: bool = False) -> None:
        self.forward = Forward(model, prepack=prepack)
        self.device = self.forward.device
        self.configs = configs_of(model)
        self.cache: SharedCache | None = None

    def prefill(self, prompt: Sequence[int], block: int = 512, progress: Progress | None = None) -> Prefix:
        prefix = self.forward.prefill(prompt, block, progress)
        return Prefix(prefix.length, prefix.logits, SharedPrefix.of(prefix.cache, prefix.length))

    def add(self, prefix: Prefix, count: int) -> None:
        """Append `count` rows that continue `prefix`: nothing is copied."""
        if self.cache is None:
            self.cache = SharedCache(prefix.cache)
        self.cache.add(prefix.cache, count)

    @torch.inference_mode()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens: [B] int64, the newest token of every row; returns the next logits, [B, V]."""
        cache = self.cache
        assert cache is not None
        lengths = cache.lengths
        if tokens.shape[0] != len(lengths):
            raise ValueError(f"tokens must have one value for each of the {len(lengths)} rows, got {tokens.shape[0]}")
        more = {}
        if self.forward.takes_positions:
            more["position_ids"] = torch.tensor(cache.positions, device=self.device)[:, None]
        try:
            with sharing(self.forward.model, self.configs):
                return self.forward(tokens[:, None], cache, **more)[0]
        except BaseException:
            cache.lengths = lengths  # the step can be taken again: it writes to the same places
            raise

    @torch.inference_mode()
    def keep(self, order: Sequence[int]) -> None:
        """Row i becomes what row order[i] was; cheap where holes are filled from the end."""
        if self.cache is not None:
            self.cache.keep(order)


class RepeatedEngine:
    """Serves what has no cache that can be copied: reads every row's whole text again at every step."""

    is_shared = False

    def __init__(self, model: Any, *, prepack: bool = False) -> None:
        self.forward = Forward(model, prepack=prepack)
        self.device = self.forward.device
        self.rows: list[list[int]] = []

    @torch.inference_mode()
    def _logits(self, rows: list[list[int]]) -> torch.Tensor:
        ids = torch.tensor(rows, dtype=torch.long, device=self.device)
        return self.forward.model(input_ids=ids, **{**self.forward.options, "use_cache": False}).logits[:, -1]

    def prefill(self, prompt: Sequence[int], block: int = 512, progress: Progress | None = None) -> Prefix:
        logits = self._logits([list(prompt)]).clone()
        if progress is not None:
            progress(len(prompt), len(prompt))
        return Prefix(len(prompt), logits, tuple(prompt))

    def add(self, prefix: Prefix, count: int) -> None:
        self.rows += [list(prefix.cache) for _ in range(count)]

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        rows = [[*row, token] for row, token in zip(self.rows, tokens.tolist())]
        by_length: dict[int, list[int]] = {}
        for b, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(b)
        logits = {b: line for g in by_length.values() for b, line in zip(g, self._logits([rows[b] for b in g]))}
        self.rows = rows
        return torch.stack([logits[b] for b in range(len(rows))])

    def keep(self, order: Sequence[int]) -> None:
        self.rows = [self.rows[i] for i in order]
