"""A `Case` as the compiled extensions read it (csrc/bind.h): a flat tuple of numbers and addresses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contract import Case

DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
NAMES = ("logits", "dtype", "count", "rows", "vocab", "row_stride", *Case._fields[2:])  # in the order of bind.h


def arguments(case: Case) -> tuple[Any, ...]:
    """Every parameter takes two places: its value for all rows, and the address of a value a row or 0."""
    logits = case.logits
    count, vocab = logits.shape
    flat: list[Any] = [logits.data_ptr(), DTYPE_CODES[logits.dtype], count, case.rows, vocab, logits.stride(0)]
    value: Any
    for value in case[2:]:  # from temperature to indices
        flat += (value or 0, 0) if type(value) in _SCALARS else (0, value.data_ptr())
    return tuple(flat)


def addresses(stats: tuple[Tensor, ...] | None) -> tuple[int, ...]:
    """Of the tensors of `Stats`, in their order; zeros where none are wanted."""
    return (0,) * 6 if stats is None else tuple(column.data_ptr() for column in stats)


_SCALARS = (float, int, type(None))
