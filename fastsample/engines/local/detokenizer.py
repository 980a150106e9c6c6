"""From tokens to text as they come: pieces that never split a character, and stop strings that are never shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Detokenizer:
    """The text of one sample while it is written. The pieces it returns add up to `text`.

    tokenizer: None (no text, only tokens), or anything with `decode(ids, skip_special_tokens=True)`
    stop:      strings that end the sample; the first to appear cuts the text in front of it
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.stop = tuple(stop)
        self.text = ""
        self.is_stopped = False
        self._held = ""  # the end of what is decoded, as long as a stop string may begin there
        self._start = self._read = 0  # tokens[_start:_read] are decoded again with the new ones, as their context
        self._context = ""

    def advance(self, tokens: Sequence[int], *, watch: bool = True) -> str:
        """Take in tokens[already read:]; returns the new piece of text, "" while a character is incomplete.

        watch: False passes stop strings by (a sample that is still under its minimum length)
        """
        if self.tokenizer is None:
            return ""
        text = self._decode(tokens[self._start :])
        if len(text) <= len(self._context) or text.endswith("\ufffd"):
            return ""
        piece = text[len(self._context) :]
        self._start, self._read = self._read, len(tokens)
        self._context = self._decode(tokens[self._start :])
        return self._show(piece, watch)

    def finish(self, tokens: Sequence[int]) -> str:
        """Everything that is left of `tokens`, incomplete characters and held-back text included."""
        if self.tokenizer is None or self.is_stopped:
            return ""
        rest = self._decode(tokens[self._start :])[len(self._context) :]
        self._start = self._read = len(tokens)
        self._context = ""
        piece, self._held = self._held + rest, ""
        self.text += piece
        return piece

    def _decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True) if len(tokens) else ""

    def _show(self, piece: str, watch: bool) -> str:
        if self.stop:
            piece = self._held + piece
            places = [piece.find(s) for s in self.stop if s in piece] if watch else []
            if places:
                self.is_stopped, held = True, len(piece) - min(places)
            else:
                held = max(_overlap(piece, s) for s in self.stop) if watch else 0
            cut = len(piece) - held
            piece, self._held = piece[:cut], piece[cut:]
        self.text += piece
        return piece


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that is a beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
