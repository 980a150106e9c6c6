"""Token ids and a cache in, the last position's logits out; and a prompt read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..token_stats import PromptStats
from . import attention, compat
from .twin import Twin

OnPrefill = Callable[[int, int], None]  # (tokens read, tokens of the prompt)
OnLogits = Callable[[torch.Tensor], None]  # [n, V]: after each of the next n tokens of a prompt


@dataclass(eq=False)
class Prefix:
    """What rows go on from: a prefilled prompt, or a path behind one.

    length: in tokens, from the beginning; logits: [1, V], after the last of them; cache: K/V, as the runner keeps them
    root:   the prompt's own, where this is a path behind it
    told:   what the model says of the prompt's tokens, where that was asked for when it was read
    """

    length: int
    logits: torch.Tensor
    cache: Any
    root: Prefix | None = None
    told: PromptStats | None = None

    @property
    def prompt(self) -> Prefix:
        """The prompt's own."""
        return self if self.root is None else self.root


class Forward:
    """A model's forward pass, asked for the last position's logits only and by the names that this model uses.

    prepack: see `torch_ops.onednn`
    raises:  compat.UnknownModelError for a model that takes no cache by a known name
    """

    def __init__(self, model: Any, *, prepack: bool = False) -> None:
        self.model = model
        self.twin = Twin(model, prepack=prepack)
        self.signature = compat.Signature.of(model)
        self.takes_plain_cache = not self.signature.is_recurrent and all(
            compat.is_plain_attention(layer) for layer in compat.plain_cache(model).layers
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.get_input_embeddings().weight.device

    def watch(self, layer: int) -> None:
        """Take the hidden states behind this decoder layer, 1, 2, ..., from every further forward pass."""
        self.twin.watched.add(self.twin.model, layer)

    def refresh(self) -> None:
        """See what has been changed in the model since: to be called before rows join, not at every step."""
        if not self.twin.is_current():
            self.twin.renew()

    def __call__(
        self,
        ids: torch.Tensor,
        cache: Any,
        positions: torch.Tensor | None = None,
        attend_by: str | None = None,
        *,
        reads_all: bool = False,
    ) -> tuple[torch.Tensor, Any]:
        """One forward pass.

        ids: [B, n] int64; cache: None lets the model make its own; positions: [B, n] int64 or None
        attend_by: the name of an attention implementation; None is the model's own
        returns: the logits of the last position, [B, V], or of all, [B, n, V], where `reads_all`; and the cache
        raises:  compat.UnknownModelError where another cache comes back than was given
        """
        logits, returned = self.signature.call(
            self.twin.attend_by(attend_by), ids, cache, positions, reads_all=reads_all
        )
        if returned is None or (cache is not None and returned is not cache):
            what = "no cache" if returned is None else "another cache than it was given"
            raise compat.UnknownModelError(f"{type(self.model).__name__} gives back {what}")
        return logits, returned

    def over_shared(
        self, ids: torch.Tensor, cache: Any, positions: torch.Tensor, *, reads_all: bool = False
    ) -> torch.Tensor:
        """The logits of a forward pass that attends over a cache's shared prefixes and tails, as `__call__` has them.

        cache:  a `SharedCache` or a `FixedCache`; what it handed out for the pass, it lets go of, whatever happens
        raises: SharingError for a model whose attention asks for nothing of it
        """
        try:
            logits, _ = attention.in_step(
                cache,
                lambda: self(ids, cache, positions, attention.NAME, reads_all=reads_all),
                drops_softcap=self.twin.drops_softcap,
            )
            if cache.is_ignored:
                name = type(self.model).__name__
                raise attention.SharingError(f"{name} does not go through transformers' attention interface")
            return logits
        finally:
            cache.forget()

    @torch.inference_mode()
    def prefill(
        self, prompt: Sequence[int], block: int, progress: OnPrefill | None = None, reader: OnLogits | None = None
    ) -> Prefix:
        """Read a prompt once, `block` tokens at a time where the cache allows it (recurrent states do not).

        reader: called with the logits of every block, all positions of it, which are let go of afterwards
        """
        self.refresh()
        ids = torch.tensor([list(prompt)], dtype=torch.long, device=self.device)
        cache = compat.plain_cache(self.model) if self.takes_plain_cache else None
        total = ids.shape[1]
        size = total if cache is None else block
        if progress is not None and total > size:
            progress(0, total)
        for start in range(0, total, size):
            logits, cache = self(ids[:, start : start + size], cache, reads_all=reader is not None)
            if reader is not None:
                reader(logits[0])
                logits = logits[:, -1]
            if progress is not None:
                progress(min(start + size, total), total)
        # A copy: a view would keep the block's logits alive in models that cannot be asked for one position.
        return Prefix(total, logits.clone(), cache)
