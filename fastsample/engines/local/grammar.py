"""Which tokens the grammars of the batch's rows allow next, as the sampler's bitmask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...sampling.edits import WORD

if TYPE_CHECKING:
    from .batch import Row


class Follower:
    """A sample's matcher, kept where its text is.

    make: makes a matcher at the beginning of a text. One that may have been interrupted is made anew.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._matcher: Any = None
        self._read: list[int] = []
        self._is_sound = False

    def fill(self, tokens: Sequence[int], bitmask: Tensor) -> None:
        """Write what may come behind these tokens into bitmask [1, words] int32; raises what the matcher raises."""
        if not self._is_sound or self._read != list(tokens[: len(self._read)]):
            self._matcher, self._read = self._make(), []
        self._is_sound = False
        for token in tokens[len(self._read) :]:
            if self._matcher.accept_token(token) is False:
                raise ValueError(f"it does not take token {token}, number {len(self._read)} of the sample")
            self._read.append(token)
        self._matcher.fill_next_token_bitmask(bitmask, 0)
        self._is_sound = True


def masks_of(rows: Sequence[Row], vocab: int, device: torch.device) -> tuple[Tensor | None, dict[int, str]]:
    """The bitmask [B, ceil(vocab / 32)] int32, None where no row has a grammar; and which grammars failed, by row."""
    failures: dict[int, str] = {}
    if all(row.follower is None for row in rows):
        return None, failures
    bitmask = torch.full((len(rows), -(-vocab // WORD)), -1, dtype=torch.int32)  # every token
    for b, row in enumerate(rows):
        if row.follower is not None:
            try:
                row.follower.fill(row.sample.tokens[row.sample.appended :], bitmask[b : b + 1])
            except Exception as error:  # of somebody else's matcher: it ends its own sample, not the batch
                failures[b] = f"the grammar failed: {type(error).__name__}: {error}"
                bitmask[b] = -1
    return bitmask.to(device), failures
