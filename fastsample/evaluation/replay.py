"""An engine that writes stored samples again: what any rule would have cost, without the model.

It keeps `LocalEngine`'s schedule to the step (a sample of n tokens takes n - 1 forward passes after its prompt was
read, rows retire at once, freed slots are taken at the next step), and `solve_many` runs on it unchanged; so replayed
tokens and steps are those that a run with that rule would have taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any

from ..engines.base import Request, Sample, Traits
from ..solving.solve import solve_many
from ..strategies.plan import stream_of
from ..strategies.question import Question, Settings
from ..strategies.records import Result, Written
from ..token_stats import NO_MEANS, MeanStats, TokenStats
from ..voting.registry import rule_of
from ..voting.rule import Rule

Stored = Mapping[int, Written]  # sample number -> what was written


@dataclass(eq=False)
class StoredSample(Sample):
    """A sample whose means are those that were stored with it."""

    stored: Written | None = None

    @property
    def means(self) -> MeanStats:
        """As they were measured; the certainties of single tokens are stored rounded."""
        return NO_MEANS if self.stored is None else self.stored.means


class StoredEngine:
    """Has `LocalEngine`'s methods. A request for sample k of a temperature, of the question stored[prompt[0]], will say
    what that sample said; so another plan can be played, as far as it asks for what is stored.

    by_token: step one token at a time, for rules that look at samples while they are written
    """

    def __init__(self, stored: Sequence[Stored], *, slots: int = 64, by_token: bool = False) -> None:
        self.stored = stored
        self.slots = slots
        self.by_token = by_token
        self.traits = Traits("stored", "")
        self.steps = 0
        self.prefill_tokens = 0
        self.busy: dict[int, int] = {}  # rows in a forward pass -> how many passes had that many
        self.running: list[Sample] = []
        self.waiting: list[Sample] = []
        self._named: dict[int, Written] = {}  # what was written, by the stream that a request for it has
        for place, samples in enumerate(stored):
            for written in samples.values():
                self._named[stream_of((place,), written.temperature, written.k)] = written
        self._left: dict[int, int] = {}  # id of a running sample -> tokens still to come

    def submit(self, requests: Iterable[Request]) -> list[Sample]:
        """Queue the requests, in order."""
        samples: list[Sample] = [StoredSample(request, stored=self._of(request)) for request in requests]
        self.waiting += samples
        return samples

    def cancel(self, samples: Iterable[Sample]) -> None:
        """End samples at once."""
        unwanted = {id(s) for s in samples if s.finish is None}
        for s in [*self.running, *self.waiting]:
            if id(s) in unwanted:
                s.finish = "cancelled"
        self.running = [s for s in self.running if id(s) not in unwanted]
        self.waiting = [s for s in self.waiting if id(s) not in unwanted]

    def step(self) -> list[Sample]:
        """Forward passes up to the next one that finishes a sample (or one, by_token); returns what they finished."""
        free = self.slots - len(self.running)
        fresh, self.waiting = self.waiting[:free], self.waiting[free:]
        for s in fresh:
            self._left[id(s)] = self._of(s.request).tokens
            self._write(s, 1)
        done = [s for s in fresh if self._left[id(s)] <= 0]
        self.running += [s for s in fresh if self._left[id(s)] > 0]
        if self.running:
            passes = 1 if self.by_token or done else min(self._left[id(s)] for s in self.running)
            self.steps += passes
            self.busy[len(self.running)] = self.busy.get(len(self.running), 0) + passes
            for s in self.running:
                self._write(s, passes)
            done += [s for s in self.running if self._left[id(s)] <= 0]
            self.running = [s for s in self.running if self._left[id(s)] > 0]
        for s in done:
            stored = self._of(s.request)
            s.finish, s.text = stored.finish, stored.answer or ""
            del self._left[id(s)]
        return done

    def _write(self, s: Sample, tokens: int) -> None:
        written = len(s.tokens)
        self._left[id(s)] -= tokens
        s.tokens += [0] * min(tokens, tokens + self._left[id(s)])
        certainties = self._of(s.request).certainties[written : written + tokens]
        s.stats += [TokenStats(nan, nan, nan, certainty) for certainty in certainties]

    def _of(self, request: Request) -> Written:
        written = None if request.stream is None else self._named.get(request.stream)
        if written is None:
            raise LookupError(
                f"the run has no further sample of question {request.prompt[0]} at temperature "
                f"{request.temperature:g}; play a smaller budget, or keep more samples"
            )
        return written


def replay(
    stored: Sequence[Stored], settings: Settings, rule: Rule | str, *, slots: int = 64, engine: Any = None
) -> Iterator[tuple[int, Result]]:
    """(place in `stored`, result) of every question under `rule`; every sample of the plan must be stored.

    engine: a `StoredEngine`, to read its `steps` and `busy` afterwards; None makes one
    """
    rule = rule_of(rule)
    settings = replace(settings, rule=rule, stop=())
    engine = engine or StoredEngine(stored, slots=slots, by_token=rule.watched_tokens > 0)
    questions = (Question(str(n), prompt=(n,)) for n in range(len(stored)))
    run = solve_many(
        None,
        None,
        questions,
        settings=settings,
        extractor=lambda t: t or None,
        engine=engine,
        is_strict=True,
    )
    for result in run:
        yield int(result.question), result
