"""The API key: from the environment alone, so that it stands in no command line, file or record."""

from __future__ import annotations

import os

KEY_VARIABLE = "FASTSAMPLE_API_KEY"


def key_from_environment() -> str | None:
    """The value of FASTSAMPLE_API_KEY, or None."""
    return os.environ.get(KEY_VARIABLE) or None
