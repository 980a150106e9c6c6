"""The CPU backend: hands pointers to the compiled extension. No checks, no policy: `contract` has made them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contract import Case
from .arguments import addresses, arguments, edit_arguments

try:
    from . import _cpu  # type: ignore[attr-defined]  # compiled
except ImportError as error:  # a source tree that was not built, or a wheel of another platform
    _cpu: Any = None  # type: ignore[no-redef]
    _missing = f"the compiled extension is missing ({error}); reinstall fastsample with a C++17 compiler at hand"

name = "cpu"


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


def compiler() -> str | None:
    """The compiler that the extension was built with, such as gcc 12.2.0."""
    return None if _cpu is None else _cpu.compiler


def sample(case: Case, tokens: Tensor, stats: tuple[Tensor, ...] | None) -> int:
    """Fill tokens [B] int64 and, if asked for, the tensors of `Stats`; returns how many rows are invalid."""
    threads = torch.get_num_threads()
    return _cpu.sample(arguments(case), tokens.data_ptr(), addresses(stats), threads, edit_arguments(case))


def distribution(case: Case, probabilities: Tensor) -> int:
    """Fill probabilities [B, V] float32; returns how many rows are invalid."""
    threads = torch.get_num_threads()
    return _cpu.distribution(arguments(case), probabilities.data_ptr(), threads, edit_arguments(case))
