"""fastsample: sampling many answers of one question, cheaply."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from .info import info
from .version import __version__

if TYPE_CHECKING:
    from .evaluation.evaluate import evaluate
    from .fallback import FallbackWarning
    from .generating.batch import Batch
    from .generating.generate import generate, generate_each
    from .sampling.api import SparseDistribution, distribution, sample
    from .sampling.contract import Stats
    from .sampling.edits import Edits
    from .sampling.sampler import Sampler
    from .solving.solve import solve, solve_many
    from .strategies.question import Question, Settings

__all__ = [
    "Batch",
    "Edits",
    "FallbackWarning",
    "Question",
    "Sampler",
    "Settings",
    "SparseDistribution",
    "Stats",
    "__version__",
    "distribution",
    "evaluate",
    "generate",
    "generate_each",
    "info",
    "sample",
    "solve",
    "solve_many",
]


def _is_in_main_interpreter() -> bool:
    if sys.implementation.name != "cpython":
        return True
    try:
        import ctypes
    except ImportError:  # an interpreter with a lock of its own takes no such extension, and torch neither
        return False
    current, main = ctypes.pythonapi.PyInterpreterState_Get, ctypes.pythonapi.PyInterpreterState_Main
    current.restype = main.restype = ctypes.c_void_p
    return bool(current() == main())


if not _is_in_main_interpreter():  # to import torch there never ends
    raise ImportError(
        "fastsample must be imported in the main interpreter, PyTorch does not load in another one; "
        "use another process, or under mod_wsgi WSGIApplicationGroup %{GLOBAL}"
    )

# Fetched when first asked for, so that `fastsample --help` need not wait for torch.
_HOMES = {
    "Batch": "generating.batch",
    "Edits": "sampling.edits",
    "FallbackWarning": "fallback",
    "Question": "strategies.question",
    "Sampler": "sampling.sampler",
    "Settings": "strategies.question",
    "SparseDistribution": "sampling.api",
    "Stats": "sampling.contract",
    "distribution": "sampling.api",
    "evaluate": "evaluation.evaluate",
    "generate": "generating.generate",
    "generate_each": "generating.generate",
    "sample": "sampling.api",
    "solve": "solving.solve",
    "solve_many": "solving.solve",
}
_ROOMS = ("hf", "models", "trl")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS])
