"""The runner of attention models: each prompt's K/V stored once, and a tail per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...models.cache import SharedCache, prefix_of
from ...models.forward import Forward, OnLogits, OnPrefill, Prefix
from ...shared_prefix.segments import Stored, root_of, segment_of, shortened
from .told import Told

BLOCK = 512  # tokens of a path that are read in one forward pass


class SharedPrefixRunner:
    """Serves attention models. See `Runner` for what its methods do."""

    name = "shared-prefix"
    cost = ""
    is_shared = True

    def __init__(self, model: Any, *, prepack: bool = False) -> None:
        self.forward = Forward(model, prepack=prepack)
        self.cache: SharedCache | None = None
        self.states: Mapping[int, Tensor] = {}
        self.told: Told | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.forward.device

    @property
    def rows(self) -> tuple[int, ...]:
        """See `Runner`."""
        return () if self.cache is None else tuple(row.name for row in self.cache.rows)

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
        """See `Runner`; of a layer with a window, only what a later token can see is kept."""
        prefix = self.forward.prefill(prompt, block, progress, reader)
        return Prefix(prefix.length, prefix.logits, prefix_of(prefix.cache, prefix.length))

    @torch.inference_mode()
    def add(self, prefix: Prefix, count: int) -> None:
        """See `Runner`: nothing of a prompt is copied, and of a path what lies behind its prompt."""
        self.forward.refresh()
        if self.cache is None:
            self.cache = SharedCache(root_of(prefix.cache))
        self.cache.add(prefix.cache, count)

    @torch.inference_mode()
    def step(
        self, tokens: Tensor, lengths: Sequence[int] | None = None, columns: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """See `Runner`. A step that fails can be taken again: it writes to the same places."""
        cache = self.cache
        assert cache is not None
        if tokens.shape[0] != len(cache.rows):
            raise ValueError(
                f"tokens must have one value for each of the {len(cache.rows)} rows, got {tokens.shape[0]}"
            )
        if lengths is not None:
            bases = (0 if row.base is None else row.base.end for row in cache.rows)
            cache.rewind([base + length for base, length in zip(bases, lengths)])
        before = cache.lengths
        try:
            return self._advance(cache, tokens, columns)
        except BaseException:
            cache.rewind(before)
            raise

    def _advance(self, cache: SharedCache, tokens: Tensor, columns: Mapping[str, Tensor] | None) -> Tensor:
        """The step itself; sets `states` and `told`."""
        logits = self._read(cache, tokens[:, None].to(self.device))
        self.states, self.told = self.forward.twin.watched.last(), None
        return logits

    @torch.inference_mode()
    def keep(self, order: Sequence[int]) -> None:
        """See `Runner`; cheap where holes are filled from the end."""
        if self.cache is not None:
            self.cache.keep(order)

    @torch.inference_mode()
    def park(self, row: int, prefix: Prefix, logits: Tensor) -> Prefix:
        """See `Runner`: the row's own tokens are copied out, and what it began with is held together with others."""
        assert self.cache is not None
        stored, length = self.cache.copied(row), self.cache.positions[row]
        return Prefix(length, logits[None].clone(), stored, prefix.prompt)

    @torch.inference_mode()
    def extend(self, prefixes: Sequence[Prefix], tokens: Sequence[Sequence[int]]) -> list[Prefix]:
        """See `Runner`: all in one batch, beside the running one."""
        self.forward.refresh()
        cache = self._beside([prefix.cache for prefix in prefixes])
        ids = torch.tensor([list(t) for t in tokens], dtype=torch.long, device=self.device)
        for start in range(0, ids.shape[1], BLOCK):
            logits = self._read(cache, ids[:, start : start + BLOCK])
        lengths = cache.positions
        return [Prefix(lengths[i], logits[i : i + 1].clone(), cache.copied(i), prefix.prompt)
                for i, prefix in enumerate(prefixes)]  # fmt: skip

    @torch.inference_mode()
    def read(self, prefix: Prefix, tokens: Sequence[int]) -> Tensor:
        """See `Runner`."""
        self.forward.refresh()
        cache = self._beside([prefix.cache])
        ids = torch.tensor([list(tokens[:-1])], dtype=torch.long, device=self.device)
        blocks = [self._read(cache, ids[:, i : i + BLOCK], reads_all=True)[0] for i in range(0, ids.shape[1], BLOCK)]
        return torch.cat([prefix.logits, *blocks])

    @torch.inference_mode()
    def cut(self, prefix: Prefix, ids: Sequence[int], block: int) -> tuple[Prefix, str | None]:
        """See `Runner`: what lies behind the prompt is cut; a prompt that is cut itself is read again."""
        prompt = prefix.prompt
        if len(ids) < prompt.length:
            return self.prefill(ids, block), "its end lies inside the prompt, which was read again"
        if len(ids) == prompt.length:
            return prompt, None
        segment, behind = segment_of(prefix.cache), list(ids[prompt.length :])
        assert segment is not None
        windows = [None if layer is None else layer.window for layer in segment.root.layers]
        # The last token is read once more, for the logits behind it.
        shorter = shortened(segment, len(behind) - 1, windows)
        if shorter is None:
            (found,) = self.extend([prompt], [behind])
            return found, "a layer's window has lost what lies before its end, so it was read again"
        (found,) = self.extend([Prefix(len(ids) - 1, prefix.logits, shorter, prompt)], [behind[-1:]])
        return found, None

    def _beside(self, stored: Sequence[Stored]) -> SharedCache:
        cache = SharedCache(root_of(stored[0]))
        for one in stored:
            cache.add(one, 1)
        return cache

    def _read(self, cache: SharedCache, ids: Tensor, *, reads_all: bool = False) -> Tensor:
        """ids [B, n] behind the rows; returns the logits of the last position, [B, V], or of all."""
        positions = torch.tensor(cache.positions, device=self.device)[:, None]
        positions = positions + torch.arange(ids.shape[1], device=self.device)
        return self.forward.over_shared(ids, cache, positions, reads_all=reads_all)
