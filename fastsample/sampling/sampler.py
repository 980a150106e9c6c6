"""A seed, and a position for every row, kept between the steps of a decode loop that is written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from .api import named_or_fresh, sample
from .contract import Stats
from .edits import Edits
from .values import IntParameter, Parameter


class Sampler:
    """Draws a token a row with every call, and counts the rows' positions.

    temperature, top_k, top_p, min_p: one value, or one for each row, as in `sample`
    seed:     names the experiment; None = a fresh one, which `seed` then holds
    stream:   [B], names the sample of each row; None = the row's number in the first call
    position: of the first token to be drawn: one value or [B], usually the length of each row's prompt
    edits:    penalties and biases of the rows; every token that is drawn is counted in them

    A row's tokens are fixed by its logits, the parameters, seed, stream and position: never by the rows beside it. So
    they are those of a `sample` that is given the same, and of the engines.
    """

    def __init__(
        self,
        *,
        temperature: Parameter = 1.0,
        top_k: IntParameter = 0,
        top_p: Parameter = 1.0,
        min_p: Parameter = 0.0,
        seed: int | None = None,
        stream: Sequence[int] | Tensor | None = None,
        position: IntParameter = 0,
        edits: Edits | None = None,
    ) -> None:
        self.seed = named_or_fresh(seed)
        self.stream = stream
        self.position = position
        self.edits = edits
        self.parameters: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}

    @overload
    def __call__(
        self, logits: Tensor, *, allowed: Tensor | None = ..., return_stats: Literal[False] = ...
    ) -> Tensor: ...
    @overload
    def __call__(
        self, logits: Tensor, *, allowed: Tensor | None = ..., return_stats: Literal[True]
    ) -> tuple[Tensor, Stats]: ...
    def __call__(
        self, logits: Tensor, *, allowed: Tensor | None = None, return_stats: bool = False
    ) -> Tensor | tuple[Tensor, Stats]:
        """logits: [B, V], the rows in the order of the call before; returns [B] int64, or the pair (tokens, Stats).

        allowed: the tokens that may be drawn in this step, as in `sample`

        raises: as `sample`; nothing is counted then
        """
        if self.stream is None and isinstance(logits, Tensor) and logits.dim() == 2:
            self.stream = torch.arange(logits.shape[0], device=logits.device)
        if not isinstance(self.position, int):
            self.position = torch.as_tensor(self.position, device=logits.device)
        drawn = sample(
            logits,
            seed=self.seed,
            stream=self.stream,
            position=self.position,
            edits=self.edits,
            allowed=allowed,
            return_stats=return_stats,  # type: ignore[call-overload]
            **self.parameters,
        )
        self.position = self.position + 1
        if self.edits is not None:
            self.edits.append(drawn[0] if return_stats else drawn)
        return drawn

    def keep(self, rows: Sequence[int] | Tensor) -> None:
        """The next call has these rows of the last one only, in this order; each keeps its stream, position and values.

        rows: numbers of rows, [b]
        """
        chosen = torch.as_tensor(rows, dtype=torch.long)
        self.stream, self.position = _of(self.stream, chosen), _of(self.position, chosen)
        self.parameters = {name: _of(value, chosen) for name, value in self.parameters.items()}
        if self.edits is not None:
            self.edits.keep(chosen)


def _of(value: Any, rows: Tensor) -> Any:
    """The values of these rows; one value for all stays one."""
    if value is None:
        return None
    column = torch.as_tensor(value)
    return value if column.dim() == 0 else column[rows.to(column.device)]
