"""Where a leg ends: behind the text that completes a delimiter, counted from the first visible character on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Delimiters:
    """What is still to come before a sample ends.

    until:  the delimiters; left: so many of them are to be seen; start: characters of the text that are passed by
    """

    until: tuple[str, ...]
    left: int = 1
    start: int = 0

    @property
    def are_seen(self) -> bool:
        """Whether the last of them has come."""
        return bool(self.until) and self.left == 0

    def after(self, text: str) -> Delimiters:
        """What is still to come once the text has grown to this. White space in front of a delimiter makes no leg."""
        left, start = self.left, self.start
        while left and self.until:
            visible = len(text) - len(text[start:].lstrip())
            ends = [at + len(d) for d in self.until if (at := text.find(d, visible)) >= 0]
            if not ends:
                break
            left, start = left - 1, min(ends)
        return Delimiters(self.until, left, start)

    def passing(self, text: str) -> Delimiters:
        """The same, with all of this text passed by."""
        return Delimiters(self.until, self.left, len(text))
