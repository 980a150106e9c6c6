"""Many samples of a question, asked until a rule has seen enough: generation + extractor + rule = early exit.

All questions and temperatures share one running batch. After every finished sample the rule is asked; once it has
decided, the question's other samples leave the batch in the middle of a word and their slots go to the next question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from .answers import canonical, extractor_of
from .generation import Generator, Sample
from .inquiry import FULL_VOTE, Extractor, Inquiry, Question, Settings, Verify, failed
from .prompts import prompt_of
from .results import Result, Written
from .rules import rule_of
from .tally import Rule, Verdict
from .verifiers import verifier_of

__all__ = ["Event", "Question", "Result", "Settings", "Written", "repeat", "solve", "solve_many"]


@dataclass(frozen=True)
class Event:
    """What just happened, for whoever shows it. `kind` says which of the fields are set:

    "question" a question was taken in   "start" sample `number` was queued     "token" `piece` of its text came
    "finished" `sample` ended            "votes" the rule was asked: `verdict`  "cancelled" `sample` left the batch
    "verdict" the question's `result`; `inquiry` gives tallies and live samples at any time
    """

    kind: str
    inquiry: Inquiry
    number: int = -1
    piece: str = ""
    sample: Written | None = None
    verdict: Verdict | None = None
    result: Result | None = None


OnEvent = Callable[[Event], None]


def solve(
    model: Any,
    tokenizer: Any,
    question: str,
    *,
    temperatures: Iterable[float] = (0.0, 0.4, 0.8, 1.2),
    samples: int = 5,
    rule: Rule | str = FULL_VOTE,
    extractor: str | Extractor = "auto",
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    max_new_tokens: int = 256,
    seed: int = 0,
    slots: int = 64,
    system: str | None = None,
    history: Iterable[Mapping[str, str]] = (),
    prompt_template: str | None = None,
    suffix: str | None = None,
    stop: tuple[str, ...] = (),
    together: bool = True,
    prepack: bool = False,
    on_event: OnEvent | None = None,
    verify: Verify | str | None = None,
) -> Result:
    """Answer one question by a vote over samples of several temperatures, stopping as soon as the rule allows.

    question:     text; the tokenizer's chat template is put around it where it has one
    temperatures: 0 is drawn once, every other one `samples` times; sample number n is the n-th of them in turn
    rule:         a rule of `voting` or `weighing`, or its name ("beta:confidence=0.9")
    extractor:    text -> answer or None (never votes), or the name of one of `answers`; equal answers are merged
    history:      a chat before the question, {"role": ..., "content": ...} each: part of the one stored prompt
    slots:        the largest number of samples written at once
    together:     start the whole budget at once (least waiting); False starts what the rule may need (fewest tokens)
    prepack:      see `generation.Generator`: more memory, faster on a CPU, and the same bits in any batch
    verify:       (question, answer, text) -> score, or the name of one of `verifiers` ("mean-logprob"); decides, best
                  first, where the rule did not stop early
    on_event:     called with an `Event` for everything that happens

    returns: a `Result`; the same settings and seed give the same one, whatever the batch
    raises: ValueError for settings or a question that cannot be served, with the remedy; what a callable raises
    """
    settings = Settings(
        temperatures=tuple(temperatures),
        samples=samples,
        rule=rule_of(rule),
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        max_new_tokens=max_new_tokens,
        seed=seed,
        system=system,
        prompt_template=prompt_template,
        suffix=suffix,
        stop=tuple(stop),
        together=together,
    )
    run = solve_many(
        model,
        tokenizer,
        [Question(question, history=tuple(history))],
        settings=settings,
        extractor=extractor,
        slots=slots,
        prepack=prepack,
        on_event=on_event,
        verify=verify,
        is_strict=True,
    )
    return next(iter(run))


def solve_many(
    model: Any,
    tokenizer: Any,
    questions: Iterable[Question | str],
    *,
    settings: Settings | None = None,
    extractor: str | Extractor = "auto",
    slots: int = 64,
    prepack: bool = False,
    on_event: OnEvent | None = None,
    verify: Verify | str | None = None,
    is_strict: bool = False,
    generator: Any = None,
) -> Iterator[Result]:
    """Answer many questions in one running batch; yields each result as soon as its vote is over, so out of order.

    questions: read only as fast as slots fall free; nothing of a question is kept once its result was yielded
    is_strict: raise what goes wrong with a question, instead of yielding a result of status "error"
    generator: whatever steps the samples, with the methods of `generation.Generator`; None makes one of the model
    """
    settings = settings or Settings()
    settings.plan()
    if isinstance(verify, str):
        verify = verifier_of(verify)
    crowd = _Crowd(tokenizer, settings, extractor_of(extractor), on_event, verify, is_strict)
    if generator is None:
        on_piece = crowd.on_piece if on_event else None
        generator = Generator(model, tokenizer, slots=slots, prepack=prepack, on_piece=on_piece)
    crowd.generator = generator
    yield from crowd.run(iter(questions))


def repeat(
    model: Any,
    tokenizer: Any,
    question: Question | str,
    number: int,
    *,
    settings: Settings,
    extractor: str | Extractor = "auto",
    prepack: bool = False,
) -> Written:
    """Write sample `number` of the plan again, without the others: the same text as in its first batch.

    Without `prepack`, both times, a matrix product may round differently in a batch of another size; that changes a
    token where the random number falls into the gap, about once in some ten thousand tokens.
    """
    question = Question(question) if isinstance(question, str) else question
    prompt = _prompt(tokenizer, question, settings)
    inquiry = Inquiry(question, prompt, settings, _reader(extractor_of(extractor)))
    # Twice, side by side: a batch of one row takes other matrix products than larger ones.
    generator = Generator(model, tokenizer, slots=2, prepack=prepack)
    sample, _ = generator.submit([inquiry.request(number)] * 2)
    inquiry.live[number] = sample
    while sample.finish is None:
        generator.step()
    return inquiry.finish(sample)


def _prompt(tokenizer: Any, question: Question, settings: Settings) -> tuple[int, ...]:
    return prompt_of(
        tokenizer,
        question.text,
        system=settings.system,
        template=settings.prompt_template,
        suffix=settings.suffix,
        history=question.history,
    )


def _reader(extract: Extractor) -> Extractor:
    def read(text: str) -> str | None:
        answer = extract(text)
        if answer is not None and not isinstance(answer, str):
            raise TypeError(f"an extractor returns text or None, got {type(answer).__name__}")
        return canonical(answer) if answer is not None else None

    return read


class _Crowd:
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
        self.extract = _reader(extract)
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
            prompt = _prompt(self.tokenizer, question, self.settings)
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
