"""How a fallback speaks: one warning, of one class, that points at the caller's own line."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

HERE = str(Path(__file__).parent)


class FallbackWarning(UserWarning):
    """Something is served by a slower way than the best; the message says which one, why and what it costs."""


def warn(sentence: str) -> None:
    """Warn once for each place of the caller's, which is the first line outside of this package."""
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(HERE):
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]
    warnings.warn(sentence, FallbackWarning, stacklevel=level)
