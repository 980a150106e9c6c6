"""What a draw tells the host, packed: one transfer instead of one for the tokens and one for each statistic."""

from __future__ import annotations

import torch
from torch import Tensor

from ...sampling.contract import Stats
from ...token_stats import TokenStats

Told = list[tuple[int, TokenStats]]  # by row: the token, -1 where the row is invalid, and its statistics


def pack(tokens: Tensor, stats: Stats) -> Tensor:
    """[5, B] int32: the tokens, and the bits of the statistics of `TokenStats`."""
    return torch.stack([tokens.int(), *(column.view(torch.int32) for column in stats[: len(TokenStats._fields)])])


def unpack(packed: Tensor) -> Told:
    """By row, what was drawn; waits for the device."""
    there = packed.cpu().contiguous()
    return [
        (token, TokenStats(*row)) for token, row in zip(there[0].tolist(), there[1:].view(torch.float32).T.tolist())
    ]
