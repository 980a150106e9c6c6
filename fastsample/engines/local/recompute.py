"""The runner of what has no cache that can be copied: every row's whole text is read again at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count as numbers
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ...models import compat
from ...models.forward import OnLogits, OnPrefill, Prefix
from ...models.twin import Twin

_names = numbers()


class _Row(NamedTuple):
    name: int
    base: tuple[int, ...]  # what it goes on from
    ids: tuple[int, ...]  # everything


class RecomputeRunner:
    """Serves any model, slowly. See `Runner` for what its methods do; a prefix's cache is its token ids."""

    name = "recompute"
    cost = (
        "every token costs a reading of the whole text so far, so a text of L tokens takes about L / 2 times the work"
    )
    is_shared = False

    def __init__(self, model: Any, *, prepack: bool = False) -> None:
        self.twin = Twin(model, is_fast=False)
        self._rows: list[_Row] = []  # replaced as a whole
        self.states: Mapping[int, Tensor] = {}
        self.told = None  # it does not draw

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return cast(Any, self.twin.original).get_input_embeddings().weight.device

    @property
    def rows(self) -> tuple[int, ...]:
        """See `Runner`."""
        return tuple(row.name for row in self._rows)

    @torch.inference_mode()
    def _logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        ids = torch.tensor([list(row) for row in rows], dtype=torch.long, device=self.device)
        return compat.last_logits(self.twin.model, ids)

    @torch.inference_mode()
    def _every(self, row: Sequence[int]) -> Tensor:
        """[n, V]: the logits after each of the row's tokens."""
        return compat.all_logits(self.twin.model, torch.tensor([list(row)], dtype=torch.long, device=self.device))[0]

    def watch(self, layer: int) -> None:
        """See `Runner`."""
        self.twin.watched.add(self.twin.model, layer)

    def prefill(
        self,
        prompt: Sequence[int],
        block: int = 512,
        progress: OnPrefill | None = None,
        reader: OnLogits | None = None,
    ) -> Prefix:
        """See `Runner`; nothing is kept but the token ids."""
        self._refresh()
        if reader is None:
            logits = self._logits([prompt]).clone()
        else:
            every = self._every(prompt)
            reader(every)
            logits = every[-1:].clone()
        if progress is not None:
            progress(len(prompt), len(prompt))
        return Prefix(len(prompt), logits, tuple(prompt))

    def add(self, prefix: Prefix, count: int) -> None:
        """See `Runner`."""
        self._rows = self._rows + [_Row(next(_names), prefix.cache, prefix.cache) for _ in range(count)]

    def step(
        self, tokens: Tensor, lengths: Sequence[int] | None = None, columns: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """See `Runner`: one forward pass for each length of text."""
        ends = [len(r.ids) if lengths is None else len(r.base) + lengths[b] for b, r in enumerate(self._rows)]
        rows = [row._replace(ids=(*row.ids[:end], token)) for row, end, token in zip(self._rows, ends, tokens.tolist())]
        by_length: dict[int, list[int]] = {}
        for b, row in enumerate(rows):
            by_length.setdefault(len(row.ids), []).append(b)
        found: dict[int, tuple[Tensor, dict[int, Tensor]]] = {}
        for group in by_length.values():
            logits, states = self._logits([rows[b].ids for b in group]), self.twin.watched.last()
            found |= {b: (logits[i], {n: state[i] for n, state in states.items()}) for i, b in enumerate(group)}
        each = [found[b] for b in range(len(rows))]
        self._rows, self.states = rows, {n: torch.stack([states[n] for _, states in each]) for n in each[0][1]}
        return torch.stack([logits for logits, _ in each])

    def keep(self, order: Sequence[int]) -> None:
        """See `Runner`."""
        self._rows = [self._rows[i] for i in order]

    def park(self, row: int, prefix: Prefix, logits: Tensor) -> Prefix:
        """See `Runner`."""
        ids = self._rows[row].ids
        return Prefix(len(ids), logits[None].clone(), ids, prefix.prompt)

    def extend(self, prefixes: Sequence[Prefix], tokens: Sequence[Sequence[int]]) -> list[Prefix]:
        """See `Runner`."""
        self._refresh()
        texts = [(*prefix.cache, *new) for prefix, new in zip(prefixes, tokens)]
        return [Prefix(len(t), self._logits([t]).clone(), t, p.prompt) for p, t in zip(prefixes, texts)]

    @torch.inference_mode()
    def read(self, prefix: Prefix, tokens: Sequence[int]) -> Tensor:
        """See `Runner`."""
        self._refresh()
        return self._every([*prefix.cache, *tokens[:-1]])[prefix.length - 1 :]

    def cut(self, prefix: Prefix, ids: Sequence[int], block: int) -> tuple[Prefix, str | None]:
        """See `Runner`; it is read again, as everything is."""
        found = self.prefill(ids, block)
        return Prefix(found.length, found.logits, found.cache, prefix.prompt), None

    def _refresh(self) -> None:
        if not self.twin.is_current():
            self.twin.renew()
