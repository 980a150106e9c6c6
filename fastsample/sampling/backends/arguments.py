"""A `Case` as the compiled extensions read it (csrc/bind.h): a flat tuple of numbers and addresses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contract import Case
from ..edits import EditColumns

DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
NAMES = ("logits", "dtype", "count", "rows", "vocab", "row_stride", *Case._fields[2:-2])  # in the order of bind.h
EDIT_NAMES = ("entries", *EditColumns._fields, "allowed", "allowed_stride")  # likewise


def arguments(case: Case) -> tuple[Any, ...]:
    """Every parameter takes two places: its value for all rows, and the address of a value a row or 0."""
    logits = case.logits
    count, vocab = logits.shape
    flat: list[Any] = [logits.data_ptr(), DTYPE_CODES[logits.dtype], count, case.rows, vocab, logits.stride(0)]
    value: Any
    for value in case[2:-2]:  # from temperature to indices
        flat += (value or 0, 0) if type(value) in _SCALARS else (0, value.data_ptr())
    return tuple(flat)


def edit_arguments(case: Case) -> tuple[int, ...]:
    """Of what is done to the logits: sizes and addresses, 0 for none; nothing at all where nothing is done."""
    if not case.is_edited:
        return ()
    edits, allowed = case.edits, case.allowed
    columns = [0] * 7 if edits is None else [edits.ids.shape[1], *(column.data_ptr() for column in edits)]
    return (*columns, *((0, 0) if allowed is None else (allowed.data_ptr(), allowed.stride(0))))


def addresses(stats: tuple[Tensor, ...] | None) -> tuple[int, ...]:
    """Of the tensors of `Stats`, in their order; zeros where none are wanted."""
    return (0,) * 6 if stats is None else tuple(column.data_ptr() for column in stats)


_SCALARS = (float, int, type(None))
