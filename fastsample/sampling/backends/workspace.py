"""Memory of a call on a GPU that both of its backends need."""

from __future__ import annotations

from torch import Tensor

from ..contract import Case


def room_for_edited(case: Case) -> Tensor:
    """[B, V] logits to be written, each row at a multiple of 16 bytes; they belong to the call."""
    vocab = case.logits.shape[1]
    return case.logits.new_empty(case.rows, -(-vocab // 8) * 8)[:, :vocab]
