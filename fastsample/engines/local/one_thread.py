"""An engine serves one thread at a time, and says so to a second one."""

from __future__ import annotations

from typing import Any


def alone(lock: Any) -> Any:
    """The lock, to be entered by `with`. raises: RuntimeError where another thread holds it"""
    # One expression: an interrupt between the two calls would leave it locked.
    if not (lock.acquire(blocking=False) and lock.release() is None):
        raise RuntimeError(
            "an engine serves one thread at a time, and another thread is inside this one; "
            "give each thread an engine of its own, they may share the model"
        )
    return lock
