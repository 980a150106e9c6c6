"""The CPU backend: hands pointers to the compiled extension. No checks, no policy: `contract` has made them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contract import Case

try:
    from . import _cpu  # type: ignore[attr-defined]  # compiled
except ImportError as error:  # a source tree that was not built, or a wheel of another platform
    _cpu: Any = None  # type: ignore[no-redef]
    _missing = f"the compiled extension is missing ({error}); reinstall fastsample with a C++17 compiler at hand"

name = "cpu"
DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def why_not(case: Case) -> str | None:
    """Why the backend cannot run the case here, in one sentence, or None."""
    if _cpu is None:
        return _missing
    if case.logits.device.type != "cpu":
        return f"the logits are on {case.logits.device}, not on the CPU"
    return None


def instruction_set() -> str | None:
    """The vector instructions chosen when the extension was loaded: avx512, avx2, x86-64 or neon."""
    return None if _cpu is None else _cpu.instruction_set()


def sample(case: Case, tokens: Tensor, stats: tuple[Tensor, ...] | None) -> int:
    """Fill tokens [B] int64 and, if asked for, the tensors of `Stats`; returns how many rows are invalid."""
    pointers = (0, 0, 0, 0, 0, 0) if stats is None else tuple(column.data_ptr() for column in stats)
    return _cpu.sample(_arguments(case), tokens.data_ptr(), pointers, torch.get_num_threads())


def distribution(case: Case, probabilities: Tensor) -> int:
    """Fill probabilities [B, V] float32; returns how many rows are invalid."""
    return _cpu.distribution(_arguments(case), probabilities.data_ptr(), torch.get_num_threads())


def _arguments(case: Case) -> tuple[Any, ...]:
    """Every parameter as (value for all rows, pointer to a value a row or 0)."""
    logits = case.logits
    flat: list[Any] = [logits.data_ptr(), DTYPE_CODES[logits.dtype], case.rows, logits.shape[1], logits.stride(0)]
    value: Any
    for value in case[2:]:  # from temperature to indices, in the order of Case
        flat += (value or 0, 0) if type(value) in _SCALARS else (0, value.data_ptr())
    return tuple(flat)


_SCALARS = (float, int, type(None))
