"""The verbs under an engine: read a prompt, add rows to it, step all rows, keep some of them, park one, go on from it.

A runner owns the K/V and the model's forward pass and nothing else: it knows no request, draws no token and decodes no
text. Rows are numbered 0 ... B-1 in the order in which they were added; `keep` renumbers them. What a runner holds is
changed by one assignment, after all the work: a call that is interrupted can be made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ...models.forward import OnLogits, OnPrefill, Prefix
from .expanded import ExpandedCacheRunner
from .recompute import RecomputeRunner
from .shared import SharedPrefixRunner
from .told import Told

__all__ = ["ExpandedCacheRunner", "RecomputeRunner", "Runner", "SharedPrefixRunner"]


class Runner(Protocol):
    """What an engine asks of a runner.

    name:      what a user reads
    cost:      what being served by it costs, in words; "" for the best
    is_shared: whether rows can be added one by one without a forward pass of their own for each addition
    states:    by watched layer, [B, hidden]: behind it, at the newest token of every row; of the last step
    told:      what the last step has drawn itself, where it was given columns and could; else None
    """

    name: ClassVar[str]
    cost: ClassVar[str]
    is_shared: ClassVar[bool]
    states: Mapping[int, Tensor]
    told: Told | None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        ...

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows of the batch in their order, each by a number that it keeps and that no other row ever gets."""
        ...

    def watch(self, layer: int) -> None:
        """Give the hidden states behind this decoder layer, 1, 2, ..., in `states`.

        raises: ValueError for one that the model does not have
        """
        ...

    def prefill(
        self,
        prompt: Sequence[int],
        block: int = 512,
        progress: OnPrefill | None = None,
        reader: OnLogits | None = None,
    ) -> Prefix:
        """Read a prompt once, `block` tokens at a time where that can be.

        reader: called with the logits after the next tokens of the prompt, [n, V], until all were told
        """
        ...

    def add(self, prefix: Prefix, count: int) -> None:
        """Append `count` rows that continue `prefix`, a prompt or what was parked."""
        ...

    def step(
        self, tokens: Tensor, lengths: Sequence[int] | None = None, columns: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """tokens: [B] int64, the newest token of every row; returns the next logits, [B, V].

        They may be overwritten by the next step.
        columns: the parameters that the next tokens would be drawn by, all but the position, in case it can do so
        lengths: how many tokens each row has taken behind its prefix so far, as the caller has seen it: a step whose
                 result never reached the caller is taken again. None: all that were given
        """
        ...

    def keep(self, order: Sequence[int]) -> None:
        """Row i becomes what row order[i] was; rows not named leave the batch and their memory with them."""
        ...

    def park(self, row: int, prefix: Prefix, logits: Tensor) -> Prefix:
        """What a row has grown to, to be gone on from; the row stays. prefix: that it was added to; logits: [V]."""
        ...

    def extend(self, prefixes: Sequence[Prefix], tokens: Sequence[Sequence[int]]) -> list[Prefix]:
        """Read given tokens behind each prefix, equally many, at least one; the prefixes and the batch stay."""
        ...

    def read(self, prefix: Prefix, tokens: Sequence[int]) -> Tensor:
        """[n, V]: the logits that each of the n >= 1 tokens would be drawn from behind the prefix."""
        ...

    def cut(self, prefix: Prefix, ids: Sequence[int], block: int) -> tuple[Prefix, str | None]:
        """The first tokens of a prefix, `ids`, at least one; and why they had to be read again, or None."""
        ...
