"""What a strategy is: one question's samples, from what to start first to the answer that they elect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..engines.base import Request, Sample
from ..voting.ballots import Verdict
from .question import Question, Settings
from .records import Result, Written


class MakeStrategy(Protocol):
    """What makes a strategy for a question; `SelfConsistency` is one."""

    def __call__(
        self,
        question: Question,
        prompt: tuple[int, ...],
        settings: Settings,
        extract: Callable[[str], str | None],
        serial: int,
    ) -> Strategy:
        """extract: text -> answer in canonical form, or None; serial: the scheduler's number for the question."""
        ...


class Strategy(Protocol):
    """One question while it is answered. It draws nothing and calls no engine: the scheduler does, for many at once.

    question, prompt: what is asked, and its token ids
    serial:  the scheduler's number for it; every request's key is (serial, sample number)
    plan:    (temperature, k) by sample number
    live:    samples that are being written, by number; the scheduler enters them when it has submitted them
    written: samples that ended, by number
    verdict: what was last judged
    steps:   forward passes in which it had a row; counted by the scheduler
    """

    question: Question
    prompt: tuple[int, ...]
    serial: int
    plan: list[tuple[float, int]]
    live: dict[int, Sample]
    written: dict[int, Written]
    verdict: Verdict
    steps: int

    def requests(self, lent: int = 0) -> list[Request]:
        """What to start now; `lent` more than it would ask for by itself, where there are so many."""
        ...

    def read(self, sample: Sample) -> Written:
        """A sample that ended by itself, its answer read. It is scored, where there is a scorer, and then entered."""
        ...

    def enter(self, written: Written) -> None:
        """Take in a sample that was read."""
        ...

    def weak(self) -> list[Sample]:
        """Live samples that are given up."""
        ...

    def drop(self, sample: Sample, finish: str) -> Written:
        """Take in a live sample that was "cancelled" or "aborted"."""
        ...

    def judge(self) -> Verdict:
        """The verdict on what is in; final when nothing more is to be started."""
        ...

    def result(self) -> Result:
        """What comes back of a judged question."""
        ...
