"""fastsample: sampling many answers of one question, cheaply."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .info import info
from .version import __version__

if TYPE_CHECKING:
    from .contract import Stats
    from .sampling import SparseDistribution, distribution, sample

__all__ = ["SparseDistribution", "Stats", "__version__", "distribution", "info", "sample"]

# Fetched when first asked for, so that `fastsample --help` need not wait for torch.
_HOMES = {"SparseDistribution": "sampling", "Stats": "contract", "distribution": "sampling", "sample": "sampling"}
_MODULES = ("answers", "consensus", "generation", "hf", "models", "voting")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_MODULES])
