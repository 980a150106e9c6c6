"""How long work stands, in a line every 30 seconds: for a log, where a bar would leave nothing or too much."""

from __future__ import annotations

from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

SECONDS = 30.0


class Lines:
    """Prints from a thread of its own, also while nothing comes in; not on a terminal, which has a bar.

    words: what else the next line says
    """

    def __init__(self, console: Console, total: int, every: float = SECONDS) -> None:
        self.console = console
        self.total = total
        self.every = every
        self.words = ""
        self._begun = self._done = 0
        self._since = monotonic()
        self._is_over = Event()
        self._thread = Thread(target=self._print, name="progress lines", daemon=True)

    def __enter__(self) -> Lines:
        if not self.console.is_terminal:
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()

    def begin(self, done: int) -> None:
        """Count from here: so many were done before, and the rest is what the time left is reckoned from."""
        self._begun = self._done = done
        self._since = monotonic()

    def advance(self) -> None:
        """One more is done."""
        self._done += 1

    def line(self) -> str:
        """The line as it would be printed now."""
        seconds, fresh = monotonic() - self._since, self._done - self._begun
        parts = [f"{self._done:,} of {self.total:,} questions", self.words, f"{in_words(seconds)} so far"]
        if fresh and self._done < self.total:
            parts.append(f"about {in_words(seconds / fresh * (self.total - self._done))} left")
        return ", ".join(part for part in parts if part)

    def _print(self) -> None:
        while not self._is_over.wait(self.every):
            self.console.print(self.line(), markup=False, soft_wrap=True)


def in_words(seconds: float) -> str:
    """83 -> '1 min 23 s'; 4000 -> '1 h 07 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02} min"
