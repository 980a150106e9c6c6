"""The room of transformers: nobody else, but `hf`, names it or one of its argument names.

`load` and `skeleton` are the public names; they are fetched when first asked for, because transformers takes a second.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .gguf import ModelError
    from .loading import load, skeleton

__all__ = ["ModelError", "load", "skeleton"]

_HOMES = {"ModelError": "gguf", "load": "loading", "skeleton": "loading"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
