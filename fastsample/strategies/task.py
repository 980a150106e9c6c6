"""One question as a method sees it: its root, its scorer, the run's settings, and what can be asked of them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

from ..scoring.base import Scorer
from .base import Choice
from .choice import choose
from .path import Ask, Path
from .prompts import prompt_of
from .question import Question, Settings


class SpentError(Exception):
    """Thrown into a method when its budget is spent. One that does not catch it gets the best of what is finished."""


@dataclass(frozen=True)
class Budget:
    """What one question may cost, pruned and cancelled paths included.

    tokens: that are drawn; None has no limit. What is left is shared equally by the asks of a round
    legs:   that are written; scores: texts that are scored

    Seconds are not a budget: the same question must not get another answer on a machine that is busy.

    raises: ValueError for a number below 1
    """

    tokens: int | None = None
    legs: int = 10_000
    scores: int | None = None

    def __post_init__(self) -> None:
        for name in ("tokens", "legs", "scores"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"a budget's {name} must be at least 1, got {value}; leave it out for no limit")


class Tree(Protocol):
    """Who numbers the paths of a question."""

    def root(self, prompt: tuple[int, ...]) -> Path:
        """The root of a prompt."""
        ...

    def cut(self, path: Path, kept: int) -> Path:
        """See `Task.cut`."""
        ...


class Task:
    """What a method is started with.

    question: what is asked; root: its prompt, to be continued
    scorer:   the run's, or None; settings: the run's; budget: the question's
    limit:    tokens that a path may have in all: the run's max_new_tokens, unless a method sets another
    context:  tokens that the model's positions reach, None where the engine does not say
    merged:   equal paths that the method made one, for the result
    known:    finished paths of before the method began, which `choose` chooses among too
    method_of: the method that a short form names
    """

    def __init__(
        self,
        question: Question,
        root: Path,
        settings: Settings,
        scorer: Scorer | None,
        budget: Budget,
        tokenizer: Any,
        extract: Callable[[str], str | None],
        tree: Tree,
    ) -> None:
        self.question = question
        self.root = root
        self.settings = settings
        self.scorer = scorer
        self.budget = budget
        self.tokenizer = tokenizer
        self.limit = settings.max_new_tokens
        self.merged = 0
        self.known: Sequence[Path] = ()
        self.context: int | None = None
        self.method_of: Callable[[str], Any] = _unnamed
        self._extract = extract
        self._tree = tree

    def ask(self, path: Path, **changes: Any) -> Ask:
        """An `Ask` with the run's filters and stop strings, and the whole path's limit; `changes` are its fields."""
        s = self.settings
        fields: dict[str, Any] = {
            "top_k": s.top_k,
            "top_p": s.top_p,
            "min_p": s.min_p,
            "stop": s.stop,
            "penalties": s.penalties,
            "max_new_tokens": self.limit,
        }
        return Ask(path, **(fields | changes))

    def prompt(
        self, text: str, *, system: str | None = None, history: Sequence[Mapping[str, str]] = (), is_aside: bool = True
    ) -> Path:
        """The root of another prompt, in the chat template.

        system: None is the run's own; is_aside: False where what is written behind it answers the question
        """
        system = self.settings.system if system is None else system
        root = self._tree.root(prompt_of(self.tokenizer, text, system=system, history=history))
        root.is_aside = is_aside
        return root

    def asked(self, system: str) -> Path:
        """The root of the question under another system prompt; template, suffix and earlier turns as the run has
        them."""
        s = self.settings
        return self._tree.root(
            prompt_of(
                self.tokenizer,
                self.question.text,
                system=system,
                template=s.prompt_template,
                suffix=s.suffix,
                history=self.question.history,
            )
        )

    def cut(self, path: Path, kept: int) -> Path:
        """The same leg cut back to its first `kept` tokens, finish "cut"; what follows is drawn anew."""
        return self._tree.cut(path, kept)

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text without special tokens, to be put behind a path."""
        return encode(self.tokenizer, text)

    def answer(self, path: Path) -> str | None:
        """The answer in the text so far of any path, in canonical form, or None."""
        return self._extract(path.whole())

    def uniform(self, label: str) -> float:
        """A number in [0, 1), fixed by seed, question and label: a method owns no random generator."""
        body = struct.pack("<q", self.settings.seed) + f"{self.question.text}\0{label}".encode(
            "utf-8", "backslashreplace"
        )
        return (int.from_bytes(blake2b(body, digest_size=8).digest(), "little") >> 11) / (1 << 53)

    def choose(self, paths: Sequence[Path], how: str = "auto", aggregate: str = "last") -> Choice:
        """See `choice.choose`; `known` paths are among these."""
        return choose([*self.known, *paths], self.scorer, how, aggregate)


def _unnamed(text: str) -> Any:
    raise ValueError(f"nobody told this task what {text} names; `Search` does")


def encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids of a text without special tokens; raises ValueError without a tokenizer."""
    if tokenizer is None:
        raise ValueError(f"text is put behind a path by the tokenizer, got {text!r} without one; pass the tokenizer")
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
