"""Self-consistency: one question, many samples, one vote. What to start next, what came in, what the rule says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil, fsum
from time import perf_counter
from typing import cast

from ..engines.base import Request, Sample
from ..scoring.base import Candidate, Scorer, aggregate
from ..voting.ballots import OPEN, Tally, Verdict, leader
from ..voting.registry import name_of, rule_of
from ..voting.temperatures import block, chosen
from .events import Event
from .plan import decided, stream_of
from .question import Question, Settings
from .records import Result, Written, budget_tokens, votes_of

# Waves grow by a quarter, so that a hard question alone takes few of them; swept over 1.0 ... 3.0 by bench/voting.py.
GROWTH = 1.25


class SelfConsistency:
    """A question's samples and votes; see `base.Strategy` for who calls what.

    top_logprobs: as in `Request`, and the engine's samples are kept in what was written; None keeps none
    """

    def __init__(
        self,
        question: Question,
        prompt: tuple[int, ...],
        settings: Settings,
        extract: Callable[[str], str | None],
        serial: int = 0,
        top_logprobs: int | None = None,
    ) -> None:
        self.top_logprobs = top_logprobs
        self.question = question
        self.prompt = prompt
        self.settings = settings
        self.rule = rule_of(settings.rule)
        self.extract = extract
        self.serial = serial
        self.plan = settings.plan()
        self.decided = decided(self.plan)
        self.tally = Tally([t for t, _ in self.plan])
        self.live: dict[int, Sample] = {}
        self.written: dict[int, Written] = {}
        self.verdict: Verdict = OPEN
        self.news: list[Event] = []
        self.started = self.rounds = self.steps = 0
        self.since = perf_counter()
        self._fresh: list[Written] = []  # have ended, and wait for their scores
        self._watched: dict[int, tuple[int, float]] = {}  # number -> (tokens seen, lowest window so far)
        for sample in question.known:
            if sample.finish == "cancelled":
                self.written.setdefault(sample.number, sample)
            elif self.tally.ballots[sample.number] is None:
                self._count(sample)

    def requests(self, lent: int = 0) -> list[Request]:
        """The samples to start now: as many as the rule needs to stop if all of them agreed, or a wave a quarter larger
        than what is in, whichever is more; and `lent` further ones."""
        self._choose()
        if self.settings.together:
            target = len(self.plan)
        else:
            target = max(self.rule.reach(self.tally), self.started)
            if self.rounds and len(self.tally.head()) >= self.started:
                target = max(target, ceil(GROWTH * self.started))
        target = min(target + lent, self.decided)
        numbers = [n for n in range(self.started, target) if self.tally.ballots[n] is None]
        self.started = max(self.started, target)
        self.rounds += bool(numbers)
        return [self.request(n) for n in numbers]

    def _choose(self) -> None:
        """Give the next samples their temperatures, once all before them have voted."""
        while self.decided < len(self.plan) and len(head := self.tally.head()) >= self.decided:
            warm = [t for t in self.settings.temperatures if t > 0]
            count = block(self.decided, len(warm), len(self.plan))
            temperature = float(chosen(head[: self.decided], warm))
            k = sum(t == temperature for t, _ in self.plan[: self.decided])
            self.plan[self.decided : self.decided + count] = [(temperature, k + i) for i in range(count)]
            self.decided += count
            self.tally.plan = tuple(t for t, _ in self.plan)

    def request(self, number: int) -> Request:
        """The request for one sample of the plan."""
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
            penalties=s.penalties,
            key=(self.serial, number),
            top_logprobs=self.top_logprobs or 0,
        )

    def take(self, sample: Sample) -> None:
        """A sample that ended by itself: its answer is read, and it votes once it has been scored."""
        self._fresh.append(self._write(sample, self.answer_of(sample)))

    def unscored(self) -> tuple[Scorer | None, Sequence[Candidate]]:
        """What has an answer: a score decides between answers."""
        return None, [w.candidate(self.question.text) for w in self._fresh if w.answer is not None]

    def enter(self, scores: Sequence[tuple[float, ...] | None]) -> None:
        """Let them vote."""
        fresh, self._fresh, left = self._fresh, [], iter(scores)
        for written in fresh:
            numbers = next(left) if written.answer is not None else None
            written = written if numbers is None else replace(written, score=aggregate(numbers))
            self._count(written)
            self.news.append(Event("finished", self, sample=written))

    def _count(self, written: Written) -> None:
        self.written[written.number] = written
        self.tally.add(written.ballot(self.rule.watched_tokens))

    def weak(self) -> list[Sample]:
        """Live samples that the rule gives up as too uncertain."""
        window = self.rule.watched_tokens
        if not window:
            return []
        weak = []
        for number, sample in self.live.items():
            seen, low = self._watched.get(number, (0, float("inf")))
            stats = sample.stats
            for end in range(max(seen + 1, window), len(stats) + 1):
                low = min(low, fsum(token.self_certainty for token in stats[end - window : end]) / window)
            self._watched[number] = (len(stats), low)
            least = self.rule.abort_below(self.tally, number)
            if least is not None and low < least:
                weak.append(sample)
        return weak

    def drop(self, sample: Sample, finish: str) -> None:
        """Take in a sample that was cancelled or aborted: no vote, but its tokens are spent."""
        written = self._write(sample, None, finish)
        if finish == "aborted":
            self._count(written)
        else:
            self.written[written.number] = written
        self.news.append(Event("cancelled", self, sample=written))

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
            cut=sum(s.finish == "length" for s in counted),
            is_tie=verdict.is_tie,
            seed=self.settings.seed,
            seconds=perf_counter() - self.since,
        )

    def close(self) -> None:
        """Nothing of a sample is kept."""

    def so_far(self) -> Result:
        """The votes of the samples that have finished."""
        self.enter([None] * len(self.unscored()[1]))
        for sample in list(self.live.values()):
            self.drop(sample, "cancelled")
        answer, is_tie = leader(self.tally.counts())
        reason = f"interrupted after {self.tally.finished} of {len(self.plan)} samples"
        self.verdict = Verdict(True, answer, False, len(self.plan), is_tie, reason)
        return replace(self.result(), status="interrupted")

    def answer_of(self, sample: Sample) -> str | None:
        """What a sample votes for. A text that was cut has not come to its answer, whatever number it stops at."""
        is_cut = sample.finish == "length" and not self.settings.cut_votes
        return None if is_cut else self.extract(sample.text)

    def _write(self, sample: Sample, answer: str | None, finish: str | None = None) -> Written:
        number = _number(sample)
        del self.live[number]
        written = Written.of(sample, (number, *self.plan[number]), answer, finish)
        return written if self.top_logprobs is None else replace(written, sample=sample)


def _number(sample: Sample) -> int:
    return cast(tuple[int, int], sample.request.key)[1]
