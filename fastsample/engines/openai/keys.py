"""The API key: from the environment alone, so that it stands in no command line, file or record."""

from __future__ import annotations

import os

KEY_VARIABLE = "FASTSAMPLE_API_KEY"  # of servers that write samples
OWN_KEY_VARIABLE = "FASTSAMPLE_SERVE_KEY"  # that `fastsample serve` asks its clients for


def key_from_environment(name: str = KEY_VARIABLE) -> str | None:
    """The value of the variable, or None."""
    return os.environ.get(name) or None
