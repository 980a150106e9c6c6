"""The questions that share the batch: taken in as slots fall free, judged after every sample, closed by a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from .answers import canonical
from .generation import Sample
from .inquiry import Extractor, Inquiry, Question, Settings, Verify, failed
from .prompts import prompt_of
from .results import Result, Written
from .tally import Verdict


@dataclass(frozen=True)
class Event:
    """What just happened, for whoever shows it. `kind` says which of the fields are set:

    "question" a question was taken in   "start" sample `number` was queued     "token" `piece` of its text came
    "prompt" `read` tokens of the question's prompt have been read, some more to follow or all
    "finished" `sample` ended            "votes" the rule was asked: `verdict`  "cancelled" `sample` left the batch
    "verdict" the question's `result`; `inquiry` gives tallies and live samples at any time
    """

    kind: str
    inquiry: Inquiry
    number: int = -1
    piece: str = ""
    read: int = 0
    sample: Written | None = None
    verdict: Verdict | None = None
    result: Result | None = None


OnEvent = Callable[[Event], None]


def prompt_for(tokenizer: Any, question: Question, settings: Settings) -> tuple[int, ...]:
    return prompt_of(
        tokenizer,
        question.text,
        system=settings.system,
        template=settings.prompt_template,
        suffix=settings.suffix,
        history=question.history,
    )


def reader_of(extract: Extractor) -> Extractor:
    """The extractor, its answers in canonical form."""

    def read(text: str) -> str | None:
        answer = extract(text)
        if answer is not None and not isinstance(answer, str):
            raise TypeError(f"an extractor returns text or None, got {type(answer).__name__}")
        return canonical(answer) if answer is not None else None

    return read


class Crowd:
    """The questions that share the batch."""

    def __init__(
        self,
        tokenizer: Any,
        settings: Settings,
        extract: Extractor,
        on_event: OnEvent | None,
        verify: Verify | None,
        is_strict: bool,
    ) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self.extract = reader_of(extract)
        self.on_event = on_event
        self.verify = verify
        self.is_strict = is_strict
        self.generator: Any = None
        self.open: dict[int, Inquiry] = {}
        self.serial = 0

    def run(self, questions: Iterator[Question | str]) -> Iterator[Result]:
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
                    yield from self._step()
        finally:
            for inquiry in self.open.values():
                self.generator.cancel(list(inquiry.live.values()))

    def _has_room(self) -> bool:
        g = self.generator
        return len(g.waiting) + len(g.running) < g.slots

    def _take(self, question: Question | str) -> Iterator[Result]:
        if isinstance(question, str):
            question = Question(question)
        self.serial += 1
        try:
            prompt = prompt_for(self.tokenizer, question, self.settings)
            inquiry = Inquiry(question, prompt, self.settings, self.extract, self.serial, self.verify)
            self.open[self.serial] = inquiry
            self._tell(Event("question", inquiry))
            inquiry.judge()
            if not inquiry.verdict.is_final:
                self._start(inquiry)
        except Exception as error:
            yield self._fail(self.serial, question, error)
            return
        if inquiry.verdict.is_final:
            yield self._close(inquiry)

    def _lend(self) -> None:
        """With no question left to take them, idle slots go to the open ones: a row more costs little of a step.

        At the end of 120 questions this saved a sixth of the steps of `ahead:k=3` and cost no tokens (bench/voting.py).
        """
        idle = self.generator.slots - len(self.generator.waiting) - len(self.generator.running)
        lent = idle // max(1, len(self.open))
        if lent and self.serial > 1:
            for inquiry in self.open.values():
                self._start(inquiry, lent)

    def _start(self, inquiry: Inquiry, lent: int = 0) -> None:
        requests = inquiry.requests(lent)
        for sample in self.generator.submit(requests):
            number = sample.request.key[1]
            inquiry.live[number] = sample
            self._tell(Event("start", inquiry, number))

    def _step(self) -> Iterator[Result]:
        busy = {serial for serial, inquiry in self.open.items() if any(s.tokens for s in inquiry.live.values())}
        before = self.generator.steps
        finished: dict[int, list[Sample]] = {}
        for sample in self.generator.step():
            finished.setdefault(sample.request.key[0], []).append(sample)
        for serial, inquiry in list(self.open.items()):
            if serial in busy or any(s.tokens for s in inquiry.live.values()):
                inquiry.steps += self.generator.steps - before
            weak = inquiry.weak()
            if serial in finished or weak:
                yield from self._hear(inquiry, finished.get(serial, []), weak)

    def _hear(self, inquiry: Inquiry, finished: list[Sample], weak: list[Sample]) -> Iterator[Result]:
        try:
            for sample in finished:
                self._tell(Event("finished", inquiry, sample=inquiry.finish(sample)))
            self._leave(inquiry, [s for s in weak if s.finish is None], "aborted")
            verdict = inquiry.judge()
            self._tell(Event("votes", inquiry, verdict=verdict))
            if not verdict.is_final:
                self._start(inquiry)
        except Exception as error:
            yield self._fail(inquiry.serial, inquiry.question, error)
            return
        if verdict.is_final:
            yield self._close(inquiry)

    def _leave(self, inquiry: Inquiry, samples: list[Sample], finish: str) -> None:
        self.generator.cancel(samples)
        for sample in samples:
            self._tell(Event("cancelled", inquiry, sample=inquiry.drop(sample, finish)))

    def _close(self, inquiry: Inquiry) -> Result:
        self._leave(inquiry, list(inquiry.live.values()), "cancelled")
        del self.open[inquiry.serial]
        result = inquiry.result()
        self._tell(Event("verdict", inquiry, result=result))
        return result

    def _fail(self, serial: int, question: Question, error: Exception) -> Result:
        inquiry = self.open.pop(serial, None)
        if inquiry is not None:
            self.generator.cancel(list(inquiry.live.values()))
        if self.is_strict:
            raise error
        return failed(question, self.settings, f"{type(error).__name__}: {error}")

    def _tell(self, event: Event) -> None:
        if self.on_event is not None:
            self.on_event(event)

    def on_piece(self, sample: Sample, piece: str) -> None:
        serial, number = cast(tuple[int, int], sample.request.key)
        if serial in self.open:
            self._tell(Event("token", self.open[serial], number, piece))

    def on_progress(self, prompt: tuple[int, ...], read: int, total: int) -> None:
        for inquiry in list(self.open.values()):
            if inquiry.prompt == prompt:
                self._tell(Event("prompt", inquiry, read=read))
