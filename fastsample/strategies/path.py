"""A path: a text grown piece by piece. Where its randomness comes from, and what is asked for to grow it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any

from ..engines.base import Parked
from ..engines.penalties import NO_PENALTIES, Penalties
from ..scoring.base import Candidate, Leg
from ..token_stats import MeanStats, TokenStats
from .plan import stream_of

FINAL = ("eos", "stop", "limit", "context")


@dataclass(eq=False)
class Path:
    """A text so far: one leg, and the path that it continues. A prompt's root has no leg.

    number:      in the order in which they were asked for; roots count too
    prompt:      token ids of its root
    tokens:      of this leg, appended ones first, without the token that ended it; `appended` of them were not drawn
    text:        of this leg, delimiter included
    finish:      "until" (a delimiter) or "length" (this leg's limit): may go on; "cut": cut back; "root": a prompt;
                 "eos", "stop", "limit" (the whole path's) or "context" (the model's): final; "cancelled"
    ended_by:    the EOS or until-id that was drawn and is not in `tokens`, or None
    stats:       of each token, and of the EOS last where it ended so; NaN where appended
    stream, temperature: what drew it
    scores:      what a scorer gave its legs so far (one number for a scorer of whole texts), () before
    answer:      read from the whole text of a final path, None where none could be read
    state:       [hidden], behind the layer that the run's scorer reads at its last token; None where nobody asked
    fate:        why it is not continued, "" while it may be
    origin:      what it was cut from
    is_aside:    of a root: what is written behind it (a critique, a verdict) is no answer to the question
    """

    number: int
    parent: Path | None
    prompt: tuple[int, ...]
    tokens: tuple[int, ...] = ()
    appended: int = 0
    text: str = ""
    finish: str = "root"
    ended_by: int | None = None
    stats: tuple[TokenStats, ...] = field(default=(), repr=False)
    stream: int = 0
    temperature: float = 0.0
    k: int = 0
    scores: tuple[float, ...] = ()
    answer: str | None = None
    fate: str = ""
    is_aside: bool = False
    origin: Path | None = field(default=None, repr=False)
    parked: Parked | None = field(default=None, repr=False)
    state: Any = field(default=None, repr=False)
    whole_text: str | None = field(default=None, repr=False)  # decoded at once: a character may span two legs
    greedy: dict[Any, Path] = field(default_factory=dict, repr=False)  # its children at temperature 0, by their asks
    _forks: dict[float, int] = field(default_factory=dict, repr=False)

    @property
    def is_final(self) -> bool:
        """Whether its text has come to its end."""
        return self.finish in FINAL

    @property
    def is_candidate(self) -> bool:
        """Whether its text has come to its end and answers the question."""
        return self.is_final and not self.line()[0].is_aside

    @property
    def depth(self) -> int:
        """Legs above, and with, this one."""
        return len(self.legs())

    def line(self) -> list[Path]:
        """From its root to itself."""
        line, path = [], self
        while path.parent is not None:
            line.append(path)
            path = path.parent
        return [path, *reversed(line)]

    def legs(self) -> list[Path]:
        """Its root's first leg ... this one."""
        return self.line()[1:]

    def ids(self) -> tuple[int, ...]:
        """All token ids, the prompt's first."""
        return self.prompt + self.written_ids()

    def written_ids(self) -> tuple[int, ...]:
        """All token ids behind the prompt."""
        return tuple(token for leg in self.legs() for token in leg.tokens)

    def whole(self) -> str:
        """Its text behind the prompt."""
        return "".join(leg.text for leg in self.legs()) if self.whole_text is None else self.whole_text

    def drawn(self) -> list[TokenStats]:
        """The statistics of all tokens of the whole path that were drawn, those that ended a leg included."""
        return [token for leg in self.legs() for token in leg.stats[leg.appended :]]

    @cached_property
    def means(self) -> MeanStats:
        """The means over the drawn tokens of the whole path, once it is written."""
        return self.leg_means if len(self.legs()) == 1 else MeanStats.of(self.drawn())

    @cached_property
    def leg_means(self) -> MeanStats:
        """The means over the drawn tokens of this leg alone."""
        return MeanStats.of(self.stats[self.appended :])

    def next_stream(self, temperature: float) -> tuple[int, int]:
        """(stream, k) of its next child; every child above temperature 0 gets another one, whenever it is asked for.

        A root's children have the streams of plain samples, k by temperature. Another path's first child goes on with
        the path's own stream, unless that would draw again what was cut off or dropped; the others fork from it.
        """
        place = temperature if self.parent is None else 1.0
        k = self._forks.get(place, 0)
        if temperature > 0:
            self._forks[place] = k + 1
        if self.parent is None:
            return stream_of(self.prompt, temperature, k), k
        goes_on = self.finish in ("until", "length") and self.ended_by is None
        if goes_on and k == 0:
            return self.stream, k
        return fork_of(self.stream, len(self.ids()), k if goes_on else k + 1), k

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`: a line of a run's paths.jsonl."""
        names = "number temperature k stream appended text finish ended_by answer fate"
        record = {name: getattr(self, name) for name in names.split()}
        parent = None if self.parent is None else self.parent.number
        prompt = {"prompt": list(self.prompt)} if self.parent is None else {}
        return record | {"parent": parent, "tokens": list(self.tokens), "scores": list(self.scores)} | prompt


def candidate_of(path: Path, question: str) -> Candidate:
    """A path as a scorer sees it."""
    legs = tuple(Leg(leg.text, leg.leg_means, len(leg.tokens) > leg.appended, leg.state) for leg in path.legs())
    return Candidate(question, path.whole(), path.answer, path.written_ids(), path.means, legs)


def fork_of(stream: int, position: int, k: int) -> int:
    """The stream of child k of a path that this stream wrote up to this position: 63 bits."""
    body = struct.pack("<qqq", stream, position, k)
    return int.from_bytes(blake2b(body, digest_size=8).digest(), "little") >> 1


@dataclass(frozen=True)
class Ask:
    """One leg to be written behind a path. `Task.ask` fills in the run's own settings.

    append:    put behind the path first: token ids, or text that is encoded without special tokens
    temperature: a number, or what gives one for the path (`schedule.by_leg`, `by_entropy`): a schedule inside a text
    until:     texts: the leg ends behind the token that completes one of these, white space in front not counted
    until_ids: or at one of these tokens, which is not kept (an end of thinking)
    legs:      pass legs - 1 of these ends by
    penalties, logits_processor, grammar: as in `engines.base.Request`

    raises: ValueError for what no leg can be
    """

    path: Path
    append: str | tuple[int, ...] = ""
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    until: tuple[str, ...] = ()
    until_ids: tuple[int, ...] = ()
    legs: int = 1
    max_new_tokens: int = 256
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    penalties: Penalties = NO_PENALTIES
    logits_processor: Callable[[Any, Any], Any] | None = None
    grammar: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        if callable(self.temperature):
            object.__setattr__(self, "temperature", self.temperature(self.path))
        if isinstance(self.until, str):
            raise TypeError(f"until must be a tuple of texts, got {self.until!r}; write ({self.until!r},)")
        if any(not text.strip(" ") for text in self.until):
            raise ValueError(f"until must hold text, got {self.until!r}; leave it out for a path in one leg")
        if both := set(self.until) & set(self.stop):
            raise ValueError(f"{both.pop()!r} ends a leg and the whole path; take it out of until or of stop")
        if self.max_new_tokens < 1 or self.legs < 1:
            raise ValueError(
                f"a leg must have room for a token, got max_new_tokens={self.max_new_tokens} and legs={self.legs}"
            )
        if not isinstance(self.temperature, int | float) or not 0 <= self.temperature < float("inf"):
            raise ValueError(f"a temperature must be a finite number of at least 0, got {self.temperature}")


def in_turn(values: Sequence[float], count: int) -> list[float]:
    """`count` values, one after the other and again from the first."""
    return [values[i % len(values)] for i in range(count)]
