"""Hostile penalties, biases and bitmasks for the draws of a turn, and what they leave of a row, written once more."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from fastsample.sampling.contract import Case
from fastsample.sampling.edits import EditColumns

ENDS = (1e-45, 1e-38, 1e-4, 0.5, 1.0, 1.0, 1.0000001, 1.3, 2.0, 1e4, 1e30, 3e38)  # of a penalty


class Edited(NamedTuple):
    """What is done to the rows of G groups: C entries each, and a bit a token.

    ids, counts, biases: [G, C]; penalties: repetition, frequency, presence, [3, G]; allowed: [G, ceil(V / 32)] or None
    """

    ids: np.ndarray
    counts: np.ndarray
    biases: np.ndarray
    penalties: np.ndarray
    allowed: np.ndarray | None

    def of(self, case: Case, group: np.ndarray) -> Case:
        """The call with these edits, for draws of these groups."""
        columns = (self.ids, self.counts, self.biases, *self.penalties)
        edits = EditColumns(*(torch.from_numpy(np.ascontiguousarray(column[group])) for column in columns))
        allowed = None if self.allowed is None else torch.from_numpy(self.allowed[group])
        return case._replace(edits=edits, allowed=allowed)

    def row(self, x: np.ndarray, group: int, dtype: torch.dtype) -> np.ndarray:
        """[V] float32: what a row of this dtype is drawn from in this group, an operation at a time."""
        x = x.copy()
        repetition, frequency, presence = self.penalties[:, group]
        with np.errstate(all="ignore"):
            for token, count, bias in zip(self.ids[group], self.counts[group], self.biases[group]):
                if not 0 <= token < len(x):
                    continue
                value = np.float32(x[token]) + bias
                if count != 0:
                    value = value / repetition if value > 0 else value * repetition
                value = value - frequency * np.float32(max(count, 0))
                if count > 0:
                    value = value - presence
                x[token] = torch.tensor(value, dtype=torch.float32).to(dtype).float()
        if self.allowed is not None:
            bits = np.unpackbits(self.allowed[group].view(np.uint8), bitorder="little")[: len(x)]
            x[bits == 0] = -np.inf
        return x


def any_edits(groups: int, vocab: int, rng: np.random.Generator) -> Edited:
    """Entries in any order, some of no token; penalties to the ends of their type; masks full, empty and between."""
    entries = int(rng.integers(0, 9))
    ids = np.stack([rng.permutation(max(vocab, entries))[:entries] for _ in range(groups)]).astype(np.int32)
    ids[rng.random(ids.shape) < 0.1] = rng.choice([-1, vocab, 2**31 - 1, -(2**31)])
    counts = rng.choice([-1, -1, 0, 1, 1, 2, 7, 1000, 2**31 - 1], ids.shape).astype(np.int32)
    biases = rng.choice([0, 0, 0, 1, -1, 0.1, -100, 100, 1e-45, 3e38, -3e38, -np.inf], ids.shape).astype(np.float32)
    penalties = rng.choice([1.0, *ENDS], (3, groups)).astype(np.float32)
    penalties[1:] *= rng.choice([0, 0, 1, -1], (2, groups))
    allowed = None
    if rng.random() < 0.5:
        share = rng.choice([0, 0.01, 0.5, 0.99, 1], groups)[:, None]
        bits = rng.random((groups, -(-vocab // 32) * 32)) < share
        allowed = np.packbits(bits, axis=1, bitorder="little").view(np.int32)
    return Edited(ids, counts, biases, penalties, allowed)
