"""The questions that share the batch: taken in as slots fall free, judged after every sample, closed by a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

from ..answers.equivalence import canonical
from ..answers.extractors import Extractor
from ..engines.base import Engine, Sample
from ..scoring.base import Candidate, Scorer, layer_read, numbers_of
from ..strategies.base import MakeStrategy, Strategy
from ..strategies.events import Event, OnEvent
from ..strategies.prompts import prompt_for
from ..strategies.question import Question, Settings
from ..strategies.records import Result
from ..strategies.self_consistency import SelfConsistency
from ..voting.registry import name_of, rule_of
from .fit import fitted

PAUSE = object()  # in place of a question: none now, ask again after the next step


def reader_of(extract: Extractor) -> Extractor:
    """The extractor, its answers in canonical form."""

    def read(text: str) -> str | None:
        answer = extract(text)
        if answer is not None and not isinstance(answer, str):
            raise TypeError(f"an extractor returns text or None, got {type(answer).__name__}")
        return canonical(answer) if answer is not None else None

    return read


class Scheduler:
    """The questions that share the batch; `on_piece` and `on_prefill` turn a local engine's news into events."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Any,
        settings: Settings,
        extract: Extractor,
        *,
        on_event: OnEvent | None = None,
        scorer: Scorer | None = None,
        strategy: MakeStrategy = SelfConsistency,
        name: str | None = None,
        is_strict: bool = False,
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.settings = fitted(settings, engine.traits, scorer)
        self.extract = reader_of(extract)
        self.on_event = on_event
        self.scorer = scorer
        self.strategy = strategy
        self.name = name_of(rule_of(settings.rule)) if name is None else name
        self.is_strict = is_strict
        self.open: dict[int, Strategy] = {}
        self.serial = 0
        self._prompt_tokens: dict[int, int] = {}  # of a question, where the engine counts them otherwise
        self._unheard: Exception | None = None  # what the listener raised

    def run(self, questions: Iterator[Any], between: Callable[[], None] | None = None) -> Iterator[Result]:
        """Answer them all; yields each result once its vote is over. What is open when it is left is cancelled.

        questions: `Question`s or texts, and PAUSE where there is none now
        between:   called before every step; it may `abandon` questions
        """
        try:
            is_more = True
            while is_more or self.open:
                while is_more and self._has_room():
                    following = next(questions, None)
                    is_more = following is not None
                    if following is PAUSE:
                        break
                    if following is not None:
                        yield from self._take(following)
                if between is not None:
                    between()
                if not is_more:
                    self._lend()
                if self.open:
                    yield from self._end_stuck()
                    yield from self._step()
        finally:
            for strategy in self.open.values():
                self.engine.cancel(list(strategy.live.values()))
                strategy.close()

    def abandon(self, strategy: Strategy) -> None:
        """Give an open question up: its samples leave the batch, and no result comes of it."""
        if self.open.pop(strategy.serial, None) is not None:
            self._prompt_tokens.pop(strategy.serial, None)
            self.engine.cancel(list(strategy.live.values()))
            strategy.close()

    def _end_stuck(self) -> Iterator[Result]:
        """A question whose strategy neither asks nor decides would keep the run going round for ever."""
        for serial, strategy in list(self.open.items()):
            if not strategy.live and not strategy.verdict.is_final:
                self._start(strategy)
                if not strategy.live:
                    name = type(strategy).__name__
                    error = RuntimeError(f"{name} asked for nothing and decided nothing; judge must become final then")
                    yield self._fail(serial, strategy.question, error)

    def _idle_slots(self) -> int:
        return self.engine.slots - len(self.engine.waiting) - len(self.engine.running)

    def _has_room(self) -> bool:
        return self._idle_slots() > 0

    def _take(self, question: Question | str) -> Iterator[Result]:
        if isinstance(question, str):
            question = Question(question)
        self.serial += 1
        try:
            prompt = prompt_for(self.tokenizer, question, self.settings)
            strategy = self.strategy(question, prompt, self.settings, self.extract, self.serial)
            self.open[self.serial] = strategy
            self._tell(Event("question", strategy))
            yield from self._settle([strategy])
            if strategy.serial not in self.open:
                return
            strategy.judge()
            if not strategy.verdict.is_final:
                self._start(strategy)
        except Exception as error:
            yield self._fail(self.serial, question, error)
            return
        if strategy.verdict.is_final:
            yield self._close(strategy)

    def _lend(self) -> None:
        """With no question left to take them, idle slots go to the open ones: a row more costs little of a step.

        At the end of 120 questions this saved a sixth of the steps of `ahead:k=3` and cost no tokens (bench/voting.py).
        """
        lent = self._idle_slots() // max(1, len(self.open))
        if lent and self.serial > 1:
            for strategy in self.open.values():
                self._start(strategy, lent)

    def _start(self, strategy: Strategy, lent: int = 0) -> None:
        # All of them first: one that the engine has and `live` has not could never be cancelled.
        requests = strategy.requests(lent)
        if (layer := layer_read(self.scorer)) is not None:  # the engine keeps what the scorer will look at
            requests = [replace(request, layer=layer) for request in requests]
        started = {_number(sample): sample for sample in self.engine.submit(requests)}
        strategy.live |= started
        for number in started:
            self._tell(Event("start", strategy, number))

    def _step(self) -> Iterator[Result]:
        busy = {serial for serial, strategy in self.open.items() if _is_writing(strategy)}
        before = self.engine.steps
        finished: dict[int, list[Sample]] = {}
        for sample in self.engine.step():
            finished.setdefault(_serial(sample), []).append(sample)
        passes = self.engine.steps - before
        for serial, strategy in self.open.items():
            if serial in busy or _is_writing(strategy):
                strategy.steps += passes
        for serial, samples in finished.items():
            strategy = self.open[serial]
            try:
                for sample in samples:
                    if sample.finish == "failed":
                        raise ValueError(sample.error)
                    if sample.prompt_tokens is not None:
                        self._prompt_tokens[serial] = sample.prompt_tokens
                    strategy.take(sample)
            except Exception as error:
                yield self._fail(serial, strategy.question, error)
        yield from self._settle([self.open[serial] for serial in finished if serial in self.open])
        for serial, strategy in list(self.open.items()):
            weak = strategy.weak()
            if serial in finished or weak:
                yield from self._hear(strategy, weak)

    def _settle(self, strategies: list[Strategy]) -> Iterator[Result]:
        """Score what waits, of all questions in one call for each scorer, until nothing waits any more."""
        while strategies:
            wanted = {strategy.serial: strategy.unscored() for strategy in strategies}
            given: dict[int, list[tuple[float, ...] | None]] = {}
            groups: dict[int, tuple[Scorer, list[int]]] = {}
            for serial, (by, candidates) in wanted.items():
                scorer = by or self.scorer
                if scorer is None or not candidates:
                    given[serial] = [None] * len(candidates)
                else:
                    groups.setdefault(id(scorer), (scorer, []))[1].append(serial)
            for scorer, serials in groups.values():
                asked = {serial: wanted[serial][1] for serial in serials}
                scores, failed = _scores_of_each(scorer, asked)
                given |= scores
                for serial, error in failed.items():
                    yield self._fail(serial, self.open[serial].question, error)
            for strategy in strategies:
                if strategy.serial in given:
                    yield from self._enter(strategy, given[strategy.serial])
            strategies = [s for s in strategies if s.serial in self.open and wanted[s.serial][1]]

    def _enter(self, strategy: Strategy, scores: Sequence[tuple[float, ...] | None]) -> Iterator[Result]:
        try:
            strategy.enter(scores)
            self._tell_news(strategy)
        except Exception as error:
            yield self._fail(strategy.serial, strategy.question, error)

    def _hear(self, strategy: Strategy, weak: list[Sample]) -> Iterator[Result]:
        if strategy.serial not in self.open:
            return
        try:
            self._leave(strategy, [s for s in weak if s.finish is None], "aborted")
            verdict = strategy.judge()
            self._tell(Event("votes", strategy, verdict=verdict))
            if not verdict.is_final:
                self._start(strategy)
        except Exception as error:
            yield self._fail(strategy.serial, strategy.question, error)
            return
        if verdict.is_final:
            yield self._close(strategy)

    def _leave(self, strategy: Strategy, samples: list[Sample], finish: str) -> None:
        self.engine.cancel(samples)
        for sample in samples:
            strategy.drop(sample, finish)
        self._tell_news(strategy)

    def _close(self, strategy: Strategy) -> Result:
        self._leave(strategy, list(strategy.live.values()), "cancelled")
        del self.open[strategy.serial]
        strategy.close()
        traits = self.engine.traits
        result = replace(strategy.result(), engine=traits.name, engine_reason=traits.reason)
        if not traits.token_ids:  # the prompt's length is none in tokens
            result = replace(result, prompt_tokens=self._prompt_tokens.pop(strategy.serial, 0))
        self._tell(Event("verdict", strategy, result=result))
        return result

    def _fail(self, serial: int, question: Question, error: Exception) -> Result:
        if error is self._unheard:  # what cannot be kept or shown is no fault of the question: the run stops
            raise error
        strategy = self.open.pop(serial, None)
        self._prompt_tokens.pop(serial, None)
        if strategy is not None:
            self.engine.cancel(list(strategy.live.values()))
            strategy.close()
        if self.is_strict:
            raise error
        sentence = f"{type(error).__name__}: {error}"
        return Result(
            id=question.id,
            question=question.text,
            answer=None,
            status="error",
            reason=sentence,
            error=sentence,
            rule=self.name,
            planned=len(self.settings.plan()),
            seed=self.settings.seed,
        )

    def _tell(self, event: Event) -> None:
        if self.on_event is not None:
            try:
                self.on_event(event)
            except Exception as error:
                self._unheard = error
                raise

    def _tell_news(self, strategy: Strategy) -> None:
        news, strategy.news[:] = list(strategy.news), []
        for event in news:
            self._tell(event)

    def on_piece(self, sample: Sample, piece: str) -> None:
        """A piece of a sample's text came."""
        serial = _serial(sample)
        if serial in self.open:
            self._tell(Event("token", self.open[serial], _number(sample), piece))

    def on_prefill(self, prompt: tuple[int, ...], read: int, total: int) -> None:
        """A part of a prompt was read."""
        for strategy in list(self.open.values()):
            if strategy.prompt == prompt:
                self._tell(Event("prompt", strategy, read=read))


_Candidates = dict[int, Sequence[Candidate]]  # of each question, by its serial
_Scores = dict[int, list["tuple[float, ...] | None"]]


def _scores_of_each(scorer: Scorer, asked: _Candidates) -> tuple[_Scores, dict[int, Exception]]:
    """What a scorer says of many questions in one call; where that fails, question by question, with what it raised."""
    try:
        numbers = iter(numbers_of(scorer, [candidate for mine in asked.values() for candidate in mine]))
    except Exception as error:
        if len(asked) == 1:
            return {}, dict.fromkeys(asked, error)
        alone = [_scores_of_each(scorer, {serial: mine}) for serial, mine in asked.items()]
        scores = {serial: given for found, _ in alone for serial, given in found.items()}
        return scores, {serial: error for _, failed in alone for serial, error in failed.items()}
    return {serial: [next(numbers) for _ in mine] for serial, mine in asked.items()}, {}


def _key(sample: Sample) -> tuple[int, int]:
    return cast(tuple[int, int], sample.request.key)


def _serial(sample: Sample) -> int:
    return _key(sample)[0]


def _number(sample: Sample) -> int:
    return _key(sample)[1]


def _is_writing(strategy: Strategy) -> bool:
    return any(s.tokens for s in strategy.live.values())
