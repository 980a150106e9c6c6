"""A time limit for Python code, in any thread: it runs in a thread of its own, which is stopped between two lines.

An alarm signal would work in the main thread alone. One long operation of C inside the code, such as 9**9**9, is not
stopped: for that `answers.child` takes another process.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
PATIENCE = 1.0  # seconds for the thread to hear that it shall stop


class _Stop(BaseException):
    """Raised in the thread whose time is over; code that catches every Exception does not catch it."""


def in_time(work: Callable[[], T], seconds: float, name: str) -> T:
    """What `work` returns or raises.

    raises: ValueError after so many seconds, with the name of what took them
    """
    outcome: list[Any] = []
    is_over = threading.Event()  # not `join`: a Ctrl-C in it marks a thread that goes on as ended

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            outcome.append(_Raised(error))
        finally:
            is_over.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        is_over.wait(seconds)
    finally:  # of Ctrl-C as well
        if not is_over.is_set():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_Stop))
            is_over.wait(PATIENCE)
    if not outcome or (isinstance(outcome[0], _Raised) and isinstance(outcome[0].error, _Stop)):
        raise ValueError(f"{name} must end within {seconds:g} s, and it does not; use another one")
    if isinstance(outcome[0], _Raised):
        raise outcome[0].error
    return outcome[0]


class _Raised:
    """An exception of the work, beside which any value may be returned."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
