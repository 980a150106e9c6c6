"""Where the legs of a text end that was written at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Splitter:
    """Where the legs of a text end, in tokens: behind the token that completes the delimiter, as an engine has it."""

    def __init__(self, tokenizer: Any, until: str) -> None:
        self.tokenizer = tokenizer
        self.until = until

    def ends(self, tokens: Sequence[int]) -> list[int]:
        """How many tokens there are up to the end of each leg; the last one ends with the text."""
        ends: list[int] = []
        start = 0
        for end in range(1, len(tokens) + 1 if self.until else 0):
            leg = str(self.tokenizer.decode(list(tokens[start:end]), skip_special_tokens=True))
            if self.until in leg.lstrip():
                ends.append(end)
                start = end
        if tokens and (not ends or ends[-1] != len(tokens)):
            ends.append(len(tokens))
        return ends
