"""A penalty on words that switch to another thought too early (arXiv 2501.18585)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WORDS = ("Alternatively", "Wait", "Another", "However")
LEAST = 5  # letters that tell a word's beginning from that of ordinary words


@dataclass(frozen=True)
class ThoughtSwitchPenalty:
    """A logits processor: `alpha` nats are taken from `ids` during the first `beta` tokens of a thought.

    A thought begins where the text begins, behind `start` tokens of prompt, and behind each of these tokens.
    """

    ids: tuple[int, ...]
    start: int = 0
    alpha: float = 3.0
    beta: int = 600

    @classmethod
    def of(
        cls, tokenizer: Any, start: int, alpha: float = 3.0, beta: int = 600, words: Sequence[str] = WORDS
    ) -> ThoughtSwitchPenalty:
        """The penalty on the first tokens of these words, with and without a space before them.

        raises: ValueError naming a word whose first token begins ordinary words too
        """
        ids: list[int] = []
        for word in words:
            for text in (word, " " + word):
                first = tokenizer(text, add_special_tokens=False)["input_ids"][0]
                piece = str(tokenizer.decode([first])).strip()
                if piece != word and len(piece) < LEAST:
                    raise ValueError(
                        f"{word!r} begins with the token {piece!r}, as ordinary words do; name words that are one token"
                    )
                ids.append(first)
        return cls(tuple(dict.fromkeys(ids)), start, alpha, beta)

    def __call__(self, ids: Any, scores: Any) -> Any:
        """ids: [1, L] of the whole text so far; scores: [1, V] -> [1, V]."""
        written = ids[0, self.start :].tolist()
        since = next((i for i, token in enumerate(reversed(written)) if token in self.ids), len(written))
        if since >= self.beta:
            return scores
        scores = scores.clone()
        scores[:, list(self.ids)] -= self.alpha
        return scores
