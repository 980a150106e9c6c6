"""One question while it is being answered: what to start next, what came in, what the rule says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, fsum, isfinite, nan
from time import perf_counter
from typing import cast

from .generation import Request, Sample
from .prompts import plan_of, stream_of
from .results import Result, Written, budget_tokens, votes_of
from .rules import name_of
from .tally import OPEN, Rule, Tally, Verdict
from .verifiers import mean_logprob
from .voting import Majority

Extractor = Callable[[str], str | None]
Verify = Callable[[str, str | None, str], float]

# Waves grow by a quarter, so that a hard question alone takes few of them; swept over 1.0 ... 3.0 by bench/voting.py.
GROWTH = 1.25
FULL_VOTE = Majority()


@dataclass(frozen=True)
class Settings:
    """How every question of a run is sampled and judged.

    samples:  of each temperature above 0; temperature 0 is drawn once
    together: start a question's whole budget at once (least waiting) instead of what the rule may need (fewest tokens)
    system, prompt_template, suffix: see `prompts.prompt_of`; stop: strings that end a sample
    """

    temperatures: tuple[float, ...] = (0.0, 0.4, 0.8, 1.2)
    samples: int = 5
    rule: Rule = FULL_VOTE
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    max_new_tokens: int = 256
    seed: int = 0
    stop: tuple[str, ...] = ()
    system: str | None = None
    prompt_template: str | None = None
    suffix: str | None = None
    together: bool = False

    def plan(self) -> list[tuple[float, int]]:
        return plan_of(self.temperatures, self.samples)


@dataclass(frozen=True)
class Question:
    """text: what is asked; id: the caller's name for it; known: samples of an earlier run, not to be drawn again.

    history: the turns of a chat before it, {"role": ..., "content": ...} each
    """

    text: str
    id: str = ""
    known: tuple[Written, ...] = ()
    history: tuple[Mapping[str, str], ...] = ()


class Inquiry:
    """A question's samples and votes. The caller submits `requests()`, reports what finished, and asks `verdict`."""

    def __init__(
        self,
        question: Question,
        prompt: tuple[int, ...],
        settings: Settings,
        extract: Extractor,
        serial: int = 0,
        verify: Verify | None = None,
    ) -> None:
        self.question = question
        self.prompt = prompt
        self.settings = settings
        self.rule = settings.rule
        self.extract = extract
        self.verify = verify
        self.serial = serial
        self.plan = settings.plan()
        self.tally = Tally([t for t, _ in self.plan])
        self.live: dict[int, Sample] = {}
        self.written: dict[int, Written] = {}
        self.verdict: Verdict = OPEN
        self.started = self.rounds = self.steps = 0
        self.since = perf_counter()
        self._watched: dict[int, tuple[int, float]] = {}  # number -> (tokens seen, lowest window so far)
        for sample in question.known:
            if sample.finish == "cancelled":
                self.written.setdefault(sample.number, sample)
            elif self.tally.ballots[sample.number] is None:
                self._enter(sample)

    def requests(self, lent: int = 0) -> list[Request]:
        """The samples to start now: as many as the rule needs to stop if all of them agreed, or a wave a quarter larger
        than what is in, whichever is more; and `lent` further ones."""
        if self.settings.together:
            target = len(self.plan)
        else:
            target = max(self.rule.reach(self.tally), self.started)
            if self.rounds and len(self.tally.prefix()) >= self.started:
                target = max(target, ceil(GROWTH * self.started))
        target = min(target + lent, len(self.plan))
        numbers = [n for n in range(self.started, target) if self.tally.ballots[n] is None]
        self.started = max(self.started, target)
        self.rounds += bool(numbers)
        return [self.request(n) for n in numbers]

    def request(self, number: int) -> Request:
        s = self.settings
        temperature, k = self.plan[number]
        return Request(
            self.prompt,
            temperature=temperature,
            top_k=s.top_k,
            top_p=s.top_p,
            min_p=s.min_p,
            seed=s.seed,
            stream=stream_of(self.prompt, temperature, k),
            max_new_tokens=s.max_new_tokens,
            stop=s.stop,
            key=(self.serial, number),
        )

    def finish(self, sample: Sample) -> Written:
        """Take in a sample that ended by itself; its answer is read here."""
        number = _number(sample)
        del self.live[number]
        written = self._write(sample, self.extract(sample.text))
        if self.verify is not None and written.answer is not None:
            written = replace(written, score=self._score(written))
        self._enter(written)
        return written

    def weak(self) -> list[Sample]:
        """Live samples that the rule gives up as too uncertain."""
        if not self.rule.watches:
            return []
        window: int = getattr(self.rule, "window")  # noqa: B009
        threshold = self.rule.threshold(self.tally)
        weak = []
        for number, sample in self.live.items():
            seen, low = self._watched.get(number, (0, float("inf")))
            certainties = sample.self_certainties
            for end in range(max(seen + 1, window), len(certainties) + 1):
                low = min(low, fsum(certainties[end - window : end]) / window)
            self._watched[number] = (len(certainties), low)
            if threshold is not None and low < threshold and number >= getattr(self.rule, "warmup", 0):
                weak.append(sample)
        return weak

    def drop(self, sample: Sample, finish: str) -> Written:
        """Take in a sample that was cancelled or aborted: no vote, but its tokens are spent."""
        written = replace(self._write(sample, None), finish=finish)
        del self.live[written.number]
        if finish == "aborted":
            self._enter(written)
        else:
            self.written[written.number] = written
        return written

    def judge(self) -> Verdict:
        """Ask the rule; final when it stops or when the plan is spent."""
        self.verdict = self.rule.judge(self.tally)
        return self.verdict

    def result(self) -> Result:
        """The result of a judged question; cancelled samples must have been dropped before."""
        verdict = self.verdict
        samples = tuple(
            replace(w, is_counted=n < verdict.counted and (w.is_finished or w.finish == "aborted"))
            for n, w in sorted(self.written.items())
        )
        counted = [s for s in samples if s.is_counted]
        status = "easy" if verdict.is_met else self.rule.spent
        answer, reason = verdict.answer, verdict.reason
        best = max((s for s in counted if s.score is not None), key=lambda s: s.score or 0.0, default=None)
        if best is not None and status != "easy":
            answer, reason = best.answer, f"{reason}; the best score, {best.score:.4g}, is sample {best.number}'s"
        votes, shares = votes_of(samples)
        return Result(
            id=self.question.id,
            question=self.question.text,
            answer=answer,
            status=status,
            reason=reason,
            rule=name_of(self.rule),
            votes=votes,
            shares=shares,
            samples=samples,
            planned=len(self.plan),
            counted=len(counted),
            cancelled=sum(s.finish in ("cancelled", "aborted") for s in samples),
            tokens=sum(s.tokens for s in samples),
            budget_tokens=budget_tokens(samples, self.tally.plan),
            prompt_tokens=len(self.prompt),
            steps=self.steps,
            rounds=self.rounds,
            unparsable=sum(s.answer is None for s in counted),
            is_tie=verdict.is_tie,
            seed=self.settings.seed,
            seconds=perf_counter() - self.since,
        )

    def _enter(self, written: Written) -> None:
        self.written[written.number] = written
        self.tally.add(written.ballot(getattr(self.rule, "window", 0) if self.rule.watches else 0))

    def _score(self, written: Written) -> float:
        assert self.verify is not None
        if self.verify is mean_logprob:
            return written.mean_logprob or 0.0
        score = float(self.verify(self.question.text, written.answer, written.text))
        if not isfinite(score):
            raise ValueError(f"the verifier returned {score} for sample {written.number}; return a finite number")
        return score

    def _write(self, sample: Sample, answer: str | None) -> Written:
        number = _number(sample)
        temperature, k = self.plan[number]
        return Written(
            number=number,
            temperature=temperature,
            k=k,
            stream=sample.request.stream,
            text=sample.text,
            answer=answer,
            tokens=len(sample.tokens),
            finish=sample.finish or "cancelled",
            mean_logprob=_mean(sample.logprobs),
            mean_raw_logprob=_mean(sample.raw_logprobs),
            entropy=_mean(sample.entropies),
            self_certainty=_mean(sample.self_certainties),
            token_ids=tuple(sample.tokens),
            certainties=tuple(sample.self_certainties),
        )


def _number(sample: Sample) -> int:
    return cast(tuple[int, int], sample.request.key)[1]


def _mean(values: Sequence[float]) -> float | None:
    mean = fsum(values) / len(values) if values else nan
    return mean if isfinite(mean) else None


def failed(question: Question, settings: Settings, error: str) -> Result:
    """The result of a question that could not be asked or judged."""
    return Result(
        id=question.id,
        question=question.text,
        answer=None,
        status="error",
        reason=error,
        rule=name_of(settings.rule),
        votes={},
        shares={},
        samples=(),
        planned=len(settings.plan()),
        counted=0,
        cancelled=0,
        tokens=0,
        budget_tokens=0,
        prompt_tokens=0,
        steps=0,
        rounds=0,
        unparsable=0,
        is_tie=False,
        seed=settings.seed,
        seconds=0.0,
        error=error,
    )
