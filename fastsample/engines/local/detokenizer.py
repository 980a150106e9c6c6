"""From tokens to text as they come: pieces that never split a character, and stop strings that are never shown."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

CONTEXT = 8  # tokens before a leg that are decoded with it, because a tokenizer may treat a text's beginning otherwise


class Detokenizer:
    """The text of one sample while it is written. The pieces it returns add up to `text`.

    tokenizer: None (no text, only tokens), or anything with `decode(ids, skip_special_tokens=True)`
    stop:      strings that end the sample; the first to appear cuts the text in front of it
    before:    tokens of the text that the sample continues; a stop string may begin in them
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), before: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.stop = tuple(stop)
        self.text = ""
        self.is_stopped = False
        self._before = list(before[-max(CONTEXT, *map(len, stop)) :] if stop else before[-CONTEXT:])
        self._held = ""  # the end of what is decoded, as long as a stop string may begin there
        # before + tokens, [_start:_read]: decoded again with the new ones, as their context
        self._start, self._read = 0, len(self._before)
        self._context = "" if tokenizer is None else self._decode(self._before)
        self._past = self._context

    @property
    def decoded(self) -> str:
        """The text, and what is held back of it."""
        return self.text + self._held

    def copy(self) -> Detokenizer:
        """One that goes on alone; what is done to it leaves this one as it is."""
        return copy.copy(self)

    def advance(self, tokens: Sequence[int], *, watch: bool = True) -> str:
        """Take in tokens[already read:]; returns the new piece of text, "" while a character is incomplete.

        watch: False passes stop strings by (a sample that is still under its minimum length)
        """
        if self.tokenizer is None:
            return ""
        text = self._decode(self._from(tokens, self._start))
        if len(text) <= len(self._context) or text.endswith("\ufffd"):
            return ""
        piece = text[len(self._context) :]
        self._start, self._read = self._read, len(self._before) + len(tokens)
        self._context = self._decode(self._from(tokens, self._start))
        return self._show(piece, watch)

    def finish(self, tokens: Sequence[int]) -> str:
        """Everything that is left of `tokens`, incomplete characters and held-back text included."""
        if self.tokenizer is None or self.is_stopped:
            return ""
        rest = self._decode(self._from(tokens, self._start))[len(self._context) :]
        self._start = self._read = len(self._before) + len(tokens)
        self._context = ""
        piece, self._held = self._held + rest, ""
        self.text += piece
        return piece

    def _from(self, tokens: Sequence[int], start: int) -> list[int]:
        return [*self._before[start:], *tokens[max(0, start - len(self._before)) :]]

    def _decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True) if len(tokens) else ""

    def _show(self, piece: str, watch: bool) -> str:
        if self.stop:
            piece = self._held + piece
            # A stop string may have begun before the sample: looked for until the sample's own text has begun.
            past = "" if self.text else self._past
            joined = past + piece
            found = (
                [at for s in self.stop if (at := joined.find(s, max(0, len(past) - len(s) + 1))) >= 0] if watch else []
            )
            if found:
                self.is_stopped, held = True, min(len(piece), len(joined) - min(found))
            else:
                held = min(len(piece), max(_overlap(joined, s) for s in self.stop)) if watch else 0
            cut = len(piece) - held
            piece, self._held = piece[:cut], piece[cut:]
        self.text += piece
        return piece


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that is a beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
