"""What answers a question: a strategy, driven by the scheduler; and the easy way to write one, a generator.

    def first_of_two(task):
        paths = yield Grow([task.ask(task.root), task.ask(task.root)])    # both in one batch
        yield Score(paths)                                                 # with those of all other questions
        return task.choose(paths)

Such a generator is called a *method* here. `Search` makes a strategy of it. Voting with early exit is a strategy of its
own: it starts and stops samples at any token, while a method waits for all that it asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..engines.base import Request, Sample
from ..scoring.base import Candidate, Scorer
from ..voting.ballots import Verdict
from .events import Event
from .path import Ask, Path
from .question import Question, Settings
from .records import Result, Written

if TYPE_CHECKING:
    from .task import Task


@dataclass(frozen=True)
class Grow:
    """Write a leg for each ask, all in one batch; the yield returns a `Path` for each, in their order.

    keep: paths that may be asked for later though this round does not ask for them; every other one is let go, unless
          it lies above one that is asked for or kept
    ends: whether nothing that this round writes will be continued, so that nothing need be kept of it
    """

    asks: Sequence[Ask]
    keep: Sequence[Path] = ()
    ends: bool = False


@dataclass(frozen=True)
class Score:
    """Score these paths; the yield returns a tuple of numbers for each: one a leg, or one for a scorer of whole texts.

    by: None is the run's scorer
    """

    paths: Sequence[Path]
    by: Scorer | None = None


@dataclass(frozen=True)
class Read:
    """The log-probability of each of these tokens behind a path, in nats, nothing drawn; the yield returns a list."""

    path: Path
    tokens: Sequence[int]


@dataclass(frozen=True)
class Choice:
    """What a method returns: a path, its answer, and why.

    score:  of the path, or of all that say the same (`weighted`); None without a scorer
    reason: one sentence: the rule and the numbers that decided
    """

    path: Path | None
    answer: str | None = None
    score: float | None = None
    reason: str = ""


Steps = Generator["Grow | Score | Read", Any, Choice]


class Method(Protocol):
    """A generator over a `Task`, or an object that is called for one; see the top of this file."""

    def __call__(self, task: Task) -> Steps:
        """Start it for one question."""
        ...


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
    """One question while it is answered. It starts nothing and waits for nothing: the scheduler does, for many at once.

    question, prompt: what is asked, and its token ids
    serial:  the scheduler's number for it; every request's key is (serial, a number of the strategy's)
    live:    samples that are being written, by number; the scheduler enters them when it has submitted them
    written: samples that ended, by number
    verdict: what was last judged
    steps:   forward passes in which it had a row; counted by the scheduler
    news:    what happened, for whoever listens; the scheduler takes it out and tells it
    """

    question: Question
    prompt: tuple[int, ...]
    serial: int
    live: dict[int, Sample]
    written: dict[int, Written]
    verdict: Verdict
    steps: int
    news: list[Event]

    def requests(self, lent: int = 0) -> list[Request]:
        """What to start now; `lent` more than it would ask for by itself, where there are so many."""
        ...

    def take(self, sample: Sample) -> None:
        """Take in a sample that ended by itself, and out of `live`."""
        ...

    def unscored(self) -> tuple[Scorer | None, Sequence[Candidate]]:
        """What it wants scored now, and by whom; None is the run's scorer."""
        ...

    def enter(self, scores: Sequence[tuple[float, ...] | None]) -> None:
        """Take in the scores of what `unscored` gave, in that order; None where the run has no scorer.

        Called after every step that ended one of its samples, with [] where nothing is unscored.
        """
        ...

    def weak(self) -> list[Sample]:
        """Live samples that are given up."""
        ...

    def drop(self, sample: Sample, finish: str) -> None:
        """Take in a live sample that was "cancelled" or "aborted", and out of `live`."""
        ...

    def judge(self) -> Verdict:
        """The verdict on what is in; final when nothing more is to be started."""
        ...

    def result(self) -> Result:
        """What comes back of a judged question; nothing is live any more."""
        ...

    def close(self) -> None:
        """Let go of what the engine keeps for it; called once, whatever became of the question."""
        ...

    def so_far(self) -> Result:
        """What there is of a question that is given up in the middle: status "interrupted"."""
        ...
