"""The questions that share the batch: taken in as slots fall free, judged after every sample, closed by a verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

from ..answers.equivalence import canonical
from ..answers.extractors import Extractor
from ..engines.base import Engine, Sample
from ..scoring.base import Candidate, Scorer, scores_of
from ..strategies.base import MakeStrategy, Strategy
from ..strategies.prompts import prompt_for
from ..strategies.question import Question, Settings
from ..strategies.records import Result, Written
from ..strategies.self_consistency import SelfConsistency
from ..voting.registry import name_of, rule_of
from .events import Event, OnEvent
from .fit import fitted


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
        is_strict: bool = False,
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.settings = fitted(settings, engine.traits, scorer)
        self.extract = reader_of(extract)
        self.on_event = on_event
        self.scorer = scorer
        self.strategy = strategy
        self.is_strict = is_strict
        self.open: dict[int, Strategy] = {}
        self.serial = 0
        self._prompt_tokens: dict[int, int] = {}  # of a question, where the engine counts them otherwise
        self._unheard: Exception | None = None  # what the listener raised

    def run(self, questions: Iterator[Question | str]) -> Iterator[Result]:
        """Answer them all; yields each result once its vote is over. What is open when it is left is cancelled."""
        try:
            is_more = True
            while is_more or self.open:
                while is_more and self._has_room():
                    following = next(questions, None)
                    is_more = following is not None
                    if following is not None:
                        yield from self._take(following)
                if not is_more:
                    self._lend()
                if self.open:
                    yield from self._end_stuck()
                    yield from self._step()
        finally:
            for strategy in self.open.values():
                self.engine.cancel(list(strategy.live.values()))

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
        started = {_number(sample): sample for sample in self.engine.submit(strategy.requests(lent))}
        strategy.live |= started
        for number in started:
            self._tell(Event("start", strategy, number))

    def _step(self) -> Iterator[Result]:
        busy = {serial for serial, strategy in self.open.items() if _is_writing(strategy)}
        before = self.engine.steps
        finished: dict[int, list[Sample]] = {}
        for sample in self.engine.step():
            finished.setdefault(cast(tuple[int, int], sample.request.key)[0], []).append(sample)
        passes = self.engine.steps - before
        for serial, strategy in self.open.items():
            if serial in busy or _is_writing(strategy):
                strategy.steps += passes
        news: dict[int, list[Written]] = {}
        for serial, samples in finished.items():
            strategy = self.open[serial]
            try:
                for s in samples:
                    if s.finish == "failed":
                        raise ValueError(s.error)
                    if s.prompt_tokens is not None:
                        self._prompt_tokens[serial] = s.prompt_tokens
                news[serial] = [strategy.read(s) for s in samples]
            except Exception as error:
                yield self._fail(serial, strategy.question, error)
        yield from self._score(news)
        for serial, strategy in list(self.open.items()):
            weak = strategy.weak()
            if serial in news or weak:
                yield from self._hear(strategy, news.get(serial, []), weak)

    def _score(self, news: dict[int, list[Written]]) -> Iterator[Result]:
        """Score what has an answer, in one call for all questions; where that fails, question by question."""
        if self.scorer is None or not news:
            return
        try:
            self._score_some(self.scorer, news, list(news))
        except Exception:
            for serial in list(news):
                try:
                    self._score_some(self.scorer, news, [serial])
                except Exception as error:  # noqa: PERF203
                    del news[serial]
                    yield self._fail(serial, self.open[serial].question, error)

    def _score_some(self, scorer: Scorer, news: dict[int, list[Written]], serials: list[int]) -> None:
        places = [(serial, i) for serial in serials for i, w in enumerate(news[serial]) if w.answer is not None]
        candidates = []
        for serial, i in places:
            w = news[serial][i]
            question = self.open[serial].question.text
            candidates.append(Candidate(question, w.text, w.answer, w.token_ids, w.means))
        scores = scores_of(scorer, candidates) if candidates else []
        for (serial, i), score in zip(places, scores):
            news[serial][i] = replace(news[serial][i], score=score)

    def _hear(self, strategy: Strategy, news: list[Written], weak: list[Sample]) -> Iterator[Result]:
        try:
            for written in news:
                strategy.enter(written)
                self._tell(Event("finished", strategy, sample=written))
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
            self._tell(Event("cancelled", strategy, sample=strategy.drop(sample, finish)))

    def _close(self, strategy: Strategy) -> Result:
        self._leave(strategy, list(strategy.live.values()), "cancelled")
        del self.open[strategy.serial]
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
            rule=name_of(rule_of(self.settings.rule)),
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

    def on_piece(self, sample: Sample, piece: str) -> None:
        """A piece of a sample's text came."""
        serial, number = cast(tuple[int, int], sample.request.key)
        if serial in self.open:
            self._tell(Event("token", self.open[serial], number, piece))

    def on_prefill(self, prompt: tuple[int, ...], read: int, total: int) -> None:
        """A part of a prompt was read."""
        for strategy in list(self.open.values()):
            if strategy.prompt == prompt:
                self._tell(Event("prompt", strategy, read=read))


def _number(sample: Sample) -> int:
    return cast(tuple[int, int], sample.request.key)[1]


def _is_writing(strategy: Strategy) -> bool:
    return any(s.tokens for s in strategy.live.values())
