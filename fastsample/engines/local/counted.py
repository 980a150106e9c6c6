"""The penalties of the batch's rows as the sampler takes them, with the tokens that they count."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ...sampling.edits import Edits

if TYPE_CHECKING:
    from .batch import Row


@dataclass(eq=False)
class Counted:
    """Kept as long as the rows are the same: a step then counts one token of each.

    rows: their names; lengths: tokens of each sample that have been counted
    """

    rows: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    edits: Edits | None = None

    def of(self, rows: Sequence[Row], device: torch.device) -> Edits | None:
        """The edits of these rows; None where no request has penalties."""
        if not any(row.sample.request.penalties.are_any for row in rows):
            return None
        names, lengths = [row.name for row in rows], [len(row.sample.tokens) for row in rows]
        edits = self.edits
        if edits is None or names != self.rows or not all(0 <= b - a <= 1 for a, b in zip(self.lengths, lengths)):
            edits = edits_of(rows, device)
        elif lengths != self.lengths:
            edits = copy.copy(edits)  # what is counted is put in place together with the lengths, or not at all
            new = [row.sample.tokens[-1] if b > a else -1 for row, a, b in zip(rows, self.lengths, lengths)]
            edits.append([token if row.sample.request.penalties.are_any else -1 for row, token in zip(rows, new)])
        vars(self).update(rows=names, lengths=lengths, edits=edits)
        return edits


def edits_of(rows: Sequence[Row], device: torch.device) -> Edits:
    """Counted from the beginning; rows without penalties count nothing."""
    penalties = [row.sample.request.penalties for row in rows]
    return Edits(
        prompts=[row.sample.request.prompt if p.are_any else () for row, p in zip(rows, penalties)],
        outputs=[row.sample.tokens if p.are_any else () for row, p in zip(rows, penalties)],
        repetition_penalty=[p.repetition for p in penalties],
        frequency_penalty=[p.frequency for p in penalties],
        presence_penalty=[p.presence for p in penalties],
        logit_bias=[dict(p.logit_bias) for p in penalties],
        device=device,
    )
