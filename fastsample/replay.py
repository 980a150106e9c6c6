"""A generator that writes stored samples again: what any rule would have cost, without the model.

It keeps `generation.Generator`'s schedule to the step (a sample of n tokens takes n - 1 forward passes after its
prompt was read, rows retire at once, freed slots are taken at the next step), and `consensus.solve_many` runs on it
unchanged; so replayed tokens and steps are those that a run with that rule would have taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from .consensus import Question, solve_many
from .generation import Request, Sample
from .inquiry import Settings
from .results import Result, Written
from .tally import Rule

Stored = Mapping[int, Written]  # sample number -> what was written


class StoredGenerator:
    """Has `generation.Generator`'s methods. stored[request.prompt[0]][number] is what a request will say.

    by_token: step one token at a time, for rules that look at samples while they are written
    """

    def __init__(self, stored: Sequence[Stored], *, slots: int = 64, by_token: bool = False) -> None:
        self.stored = stored
        self.slots = slots
        self.by_token = by_token
        self.steps = 0
        self.busy: dict[int, int] = {}  # rows in a forward pass -> how many passes had that many
        self.running: list[Sample] = []
        self.waiting: list[Sample] = []
        self._left: dict[int, int] = {}  # id of a running sample -> tokens still to come

    def submit(self, requests: Iterable[Request]) -> list[Sample]:
        samples = [Sample(request) for request in requests]
        self.waiting += samples
        return samples

    def cancel(self, samples: Iterable[Sample]) -> None:
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
            self._left[id(s)] = self._of(s).tokens
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
            self._end(s, self._of(s))
            del self._left[id(s)]
        return done

    def _end(self, s: Sample, stored: Written) -> None:
        s.finish, s.text = stored.finish, stored.answer or ""
        s.logprobs, s.raw_logprobs, s.entropies = (
            [v] if v is not None else [] for v in (stored.mean_logprob, stored.mean_raw_logprob, stored.entropy)
        )
        if not stored.certainties and stored.self_certainty is not None:
            s.self_certainties = [stored.self_certainty]

    def _write(self, s: Sample, tokens: int) -> None:
        written = len(s.tokens)
        self._left[id(s)] -= tokens
        s.tokens += [0] * min(tokens, tokens + self._left[id(s)])
        s.self_certainties += self._of(s).certainties[written : written + tokens]

    def _of(self, s: Sample) -> Written:
        return self.stored[s.request.prompt[0]][cast(tuple[int, int], s.request.key)[1]]


class _Numbers:
    """A tokenizer for questions that are called by their place: "7" is the prompt (7,)."""

    chat_template = None

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [int(text)]}


def replay(
    stored: Sequence[Stored], settings: Settings, rule: Rule, *, slots: int = 64, generator: Any = None
) -> Iterator[tuple[int, Result]]:
    """(place in `stored`, result) of every question under `rule`; every sample of the plan must be stored.

    generator: a `StoredGenerator`, to read its `steps` and `busy` afterwards; None makes one
    """
    settings = replace(settings, rule=rule, system=None, prompt_template=None, suffix=None, stop=())
    generator = generator or StoredGenerator(stored, slots=slots, by_token=rule.watches)
    questions = (Question(str(n)) for n in range(len(stored)))
    run = solve_many(
        None,
        _Numbers(),
        questions,
        settings=settings,
        extractor=lambda t: t or None,
        generator=generator,
        is_strict=True,
    )
    for result in run:
        yield int(result.question), result
