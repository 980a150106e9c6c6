"""The runner of any model with a cache: one prefill, then the cache copied to every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count as numbers
from typing import Any

import torch
from torch import Tensor

from ...models import compat
from ...models.forward import Forward, OnLogits, OnPrefill, Prefix
from ...models.states import Pass

_names = numbers()


@dataclass(frozen=True, eq=False)
class _State:
    """What a cohort has come to; replaced as a whole.

    cache: of these rows, in this order; length: tokens behind what they began with
    last:  of the newest of these tokens, for a step whose result was lost; None before the first
    """

    cache: Any
    rows: tuple[int, ...]
    length: int
    last: Pass | None = None


@dataclass(eq=False)
class _Cohort:
    """Rows that were forked together and so have one length and one cache."""

    state: _State


class ExpandedCacheRunner:
    """Serves any model (`reorder_cache` knows every layer type). See `Runner` for what its methods do."""

    name = "expanded-cache"
    cost = "every sample holds a copy of the prompt, and a step over a long prompt takes several times longer"
    is_shared = False

    def __init__(self, model: Any, *, prepack: bool = False) -> None:
        self.forward = Forward(model, prepack=prepack)
        self._rows: list[tuple[int, _Cohort]] = []  # replaced as a whole
        self.states: Mapping[int, Tensor] = {}
        self.told = None  # it does not draw

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.forward.device

    @property
    def rows(self) -> tuple[int, ...]:
        """See `Runner`."""
        return tuple(name for name, _ in self._rows)

    def watch(self, layer: int) -> None:
        """See `Runner`."""
        self.forward.watch(layer)

    def prefill(
        self,
        prompt: Sequence[int],
        block: int = 512,
        progress: OnPrefill | None = None,
        reader: OnLogits | None = None,
    ) -> Prefix:
        """See `Runner`."""
        return self.forward.prefill(prompt, block, progress, reader)

    @torch.inference_mode()
    def add(self, prefix: Prefix, count: int) -> None:
        """See `Runner`: the prefix's cache is copied `count` times."""
        self.forward.refresh()
        names = tuple(next(_names) for _ in range(count))
        cohort = _Cohort(_State(self._selected(prefix.cache, [0] * count), names, 0))
        self._rows = self._rows + [(name, cohort) for name in names]

    @torch.inference_mode()
    def step(
        self, tokens: Tensor, lengths: Sequence[int] | None = None, columns: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """See `Runner`: one forward pass for each group of rows that were added together.

        A step that fails leaves the caches as they were, and one that is asked for again gives what it gave.
        """
        place = {name: b for b, (name, _) in enumerate(self._rows)}
        cohorts = {id(cohort): cohort for _, cohort in self._rows}
        parts, where = [], []
        for cohort in cohorts.values():
            rows = [place[name] for name in cohort.state.rows]
            parts.append(
                self._step(cohort, tokens[rows, None].to(self.device), None if lengths is None else lengths[rows[0]])
            )
            where += rows
        layers = set.intersection(*(set(part.states) for part in parts))
        self.states = {layer: _placed([part.states[layer] for part in parts], where) for layer in layers}
        return _placed([part.logits for part in parts], where)

    def _step(self, cohort: _Cohort, tokens: Tensor, length: int | None) -> Pass:
        state = cohort.state
        if length is not None and state.last is not None and length == state.length - 1:
            return state.last
        if length is not None and length != state.length:
            raise RuntimeError(f"a copied cache holds {state.length} tokens, not {length}; make a new engine")
        logits, cache = self.forward(tokens, compat.copied_cache(state.cache))
        last = Pass(logits, self.forward.twin.watched.last())
        cohort.state = _State(cache, state.rows, state.length + 1, last)
        return last

    @torch.inference_mode()
    def keep(self, order: Sequence[int]) -> None:
        """See `Runner`; rows that are named twice are refused."""
        kept = [self._rows[i] for i in order]
        names = {name for name, _ in kept}
        if len(names) < len(kept):
            raise ValueError("a row of copied caches can be kept once only; park it and add rows to what was parked")
        for cohort in {id(c): c for _, c in kept}.values():
            state = cohort.state
            alive = [j for j, name in enumerate(state.rows) if name in names]
            if len(alive) < len(state.rows):
                cohort.state = _State(
                    self._selected(state.cache, alive),
                    tuple(state.rows[j] for j in alive),
                    state.length,
                    None if state.last is None else state.last.rows(alive),
                )
        self._rows = kept

    @torch.inference_mode()
    def park(self, row: int, prefix: Prefix, logits: Tensor) -> Prefix:
        """See `Runner`: a copy of the row's whole cache."""
        name, cohort = self._rows[row]
        state = cohort.state
        cache = self._selected(state.cache, [state.rows.index(name)])
        return Prefix(prefix.length + state.length, logits[None].clone(), cache, prefix.prompt)

    @torch.inference_mode()
    def extend(self, prefixes: Sequence[Prefix], tokens: Sequence[Sequence[int]]) -> list[Prefix]:
        """See `Runner`: one after the other."""
        self.forward.refresh()
        found = []
        for prefix, new in zip(prefixes, tokens):
            logits, cache = self._behind(prefix, new)
            found.append(Prefix(prefix.length + len(new), logits[-1:].clone(), cache, prefix.prompt))
        return found

    @torch.inference_mode()
    def read(self, prefix: Prefix, tokens: Sequence[int]) -> Tensor:
        """See `Runner`."""
        self.forward.refresh()
        return torch.cat([prefix.logits, self._behind(prefix, tokens[:-1])[0]]) if len(tokens) > 1 else prefix.logits

    @torch.inference_mode()
    def cut(self, prefix: Prefix, ids: Sequence[int], block: int) -> tuple[Prefix, str | None]:
        """See `Runner`; a window or a recurrent state has lost the past, so that it is read again."""
        if len(ids) == prefix.prompt.length:
            return prefix.prompt, None
        cache = compat.cut_cache(prefix.cache, len(ids) - 1) if len(ids) > 1 else None
        if cache is None:
            found, note = self.prefill(ids, block), "the model's cache cannot be cut, so it was read again"
        else:
            (found,), note = self.extend([Prefix(len(ids) - 1, prefix.logits, cache)], [ids[-1:]]), None
        is_inside = len(ids) < prefix.prompt.length
        return Prefix(found.length, found.logits, found.cache, None if is_inside else prefix.prompt), note

    def _behind(self, prefix: Prefix, tokens: Sequence[int]) -> tuple[Tensor, Any]:
        """The logits after each of the tokens, [n, V], and the cache with them; recurrent states take one at a time."""
        ids = torch.tensor([list(tokens)], dtype=torch.long, device=self.device)
        cache, parts = compat.copied_cache(prefix.cache), []
        size = ids.shape[1] if self.forward.takes_plain_cache else 1
        for start in range(0, ids.shape[1], size):
            logits, cache = self.forward(ids[:, start : start + size], cache, reads_all=True)
            parts.append(logits[0])
        return torch.cat(parts), cache

    def _selected(self, cache: Any, rows: Sequence[int]) -> Any:
        """A cache of its own with these rows of another."""
        copied = compat.copied_cache(cache)
        copied.reorder_cache(torch.tensor(rows, dtype=torch.long, device=self.device))
        return copied


def _placed(parts: Sequence[Tensor], where: Sequence[int]) -> Tensor:
    """One tensor of all parts' rows, row i of them at place where[i]."""
    if len(parts) == 1 and list(where) == sorted(where):
        return parts[0]
    together = torch.cat(list(parts))
    return torch.empty_like(together).index_copy_(0, torch.tensor(where, device=together.device), together)
