"""Self-refinement: a draft, a critique of it, a revised draft; accepted where its score did not fall."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import fsum
from typing import Any, cast

from ..answers.extractors import callable_of
from ..scoring.base import Scorer, aggregate
from ..voting.rule import at_least
from .base import Choice, Grow, Read, Score, Steps
from .choice import needed
from .path import Path
from .prompts import filled
from .task import Task
from .together import together

CRITIQUE = (
    "Question:\n{question}\n\nA draft of an answer:\n{draft}\n\n"
    "Read the draft critically. Name every mistake and everything that is missing, in a short list. Do not write an "
    "answer of your own."
)
REVISE = (
    "Question:\n{question}\n\nA draft of an answer:\n{draft}\n\nWhat a reader says of it:\n{critique}\n\n"
    "Write the answer again, mended where the reader is right. Give the final answer after 'Answer:'."
)
SCORES = ("auto", "logprob", "scorer", "none")


@dataclass(frozen=True)
class Refine:
    """rounds of critique and revision, in `chains` that run side by side.

    candidates: revisions of a round, the best of which stands
    score:      logprob: the mean raw log-probability of the text behind the original prompt; scorer: the run's; none:
                every revision is accepted; auto: scorer where there is one, else logprob
    threshold:  a score at which a chain ends (text, "" for none); patience: it ends after so many rounds without a
                strict gain
    critic:     module:function, (question, draft) -> critique, in the model's place: what tests print, for example
    how:        the choice among all versions of all chains: revising can spoil a right answer

    Raschka, Build a Reasoning Model, chapter 4: rounds 2, temperature 0.7, top-p 0.9 (--top-p), 256 tokens of critique.
    There log-probability as the judge did not help.
    """

    rounds: int = 2
    candidates: int = 1
    chains: int = 1
    score: str = "auto"
    threshold: str = ""
    patience: int = 1
    critic: str = ""
    critique: int = 256
    temperature: float = 0.7
    how: str = "auto"

    def __post_init__(self) -> None:
        at_least(1, rounds=self.rounds, candidates=self.candidates, chains=self.chains, patience=self.patience)
        if self.score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {self.score!r}")
        if self.threshold:
            float(self.threshold)

    def check(self, scorer: Scorer | None) -> None:
        """Raise ValueError for a scorer that does not fit."""
        if self.score == "scorer":
            needed("refine:score=scorer", scorer, process=False)

    def __call__(self, task: Task) -> Steps:
        """See `base.Method`."""
        self.check(task.scorer)
        critic = None if not self.critic else cast(Callable[[str, str], str], callable_of(self.critic))
        chains = yield from together([self.chain(task, critic) for _ in range(self.chains)])
        versions = [version for chain in chains for version, _ in chain]
        if self.how == "auto" and self.chains == 1:
            path, best = chains[0][-1]
            told = ", ".join(f"{value:.4g}" for _, value in chains[0])
            return Choice(path, path.answer, best, f"the last accepted of the versions with scores {told}")
        if task.scorer is not None:
            yield Score([version for version in versions if not version.scores])
        choice: Choice = task.choose(versions, self.how)
        return choice

    def chain(self, task: Task, critic: Callable[[str, str], str] | None) -> Any:
        """[(version, score), ...]: the draft and what was accepted after it."""
        (draft,) = yield Grow([task.ask(task.root, temperature=self.temperature)])
        anchor = draft  # keeps the original prompt in the engine, behind which every version is read
        versions = [(draft, (yield from self.worth(task, draft)))]
        idle = 0
        for _ in range(self.rounds):
            if idle >= self.patience or (self.threshold and versions[-1][1] >= float(self.threshold)):
                break
            current, value = versions[-1]
            words = {"question": task.question.text, "draft": current.whole()}
            if critic is None:
                root = task.prompt(filled(CRITIQUE, **words))
                most = min(self.critique, task.limit)
                (said,) = yield Grow([task.ask(root, temperature=self.temperature, max_new_tokens=most)], keep=[anchor])
                words["critique"] = said.whole()
            else:
                words["critique"] = str(critic(words["question"], words["draft"]))
            root = task.prompt(filled(REVISE, **words), is_aside=False)
            asks = [task.ask(root, temperature=self.temperature) for _ in range(self.candidates)]
            revised = yield Grow(asks, keep=[anchor])
            best, gain = None, value
            for path in revised:
                worth = yield from self.worth(task, path)
                if worth >= gain if best is None else worth > gain:
                    best, gain = path, worth
            idle = 0 if best is not None and gain > value else idle + 1
            if best is not None:
                versions.append((best, gain))
        return versions

    def worth(self, task: Task, path: Path) -> Any:
        """The score of a version as an answer to the original prompt."""
        if self.score == "none":
            return 0.0
        if self.score == "scorer" or (self.score == "auto" and task.scorer is not None):
            yield Score([path])
            return aggregate(path.scores)
        tokens = task.encode(path.whole())
        if not tokens:
            return float("-inf")
        logprobs = yield Read(task.root, tokens)
        return fsum(logprobs) / len(logprobs)
