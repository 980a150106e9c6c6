"""What drives a method: it runs the generator, writes what it asks for, and keeps the tree that grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

from ..engines.base import Request, Sample
from ..scoring.base import Candidate, Scorer, aggregate
from ..voting.ballots import OPEN, Verdict
from .base import Choice, Grow, Method, Read, Score
from .events import Event
from .path import Path, candidate_of
from .question import Question, Settings
from .records import Found, Result, Written, votes_of
from .registry import method_of
from .task import SpentError, Task
from .tree import Tools, Tree

TURNS = 10  # yields for each leg of the budget: a generator that goes round without growing anything is ended


class Search:
    """A question answered by a method; see `base.Strategy` for who calls what."""

    def __init__(
        self,
        method: Method,
        tools: Tools,
        question: Question,
        prompt: tuple[int, ...],
        settings: Settings,
        extract: Callable[[str], str | None],
        serial: int = 0,
    ) -> None:
        self.question = question
        self.prompt = prompt
        self.settings = settings
        self.tools = tools
        self.extract = extract
        self.serial = serial
        self.live: dict[int, Sample] = {}
        self.written: dict[int, Written] = {}
        self.tree = Tree(tools, settings.seed, serial, settings.max_new_tokens)
        self.verdict: Verdict = OPEN
        self.news: list[Event] = []
        self.choice: Choice | None = None
        self.is_spent = False
        self.steps = self.scored = self.turns = 0
        self.since = perf_counter()
        root = self.tree.root(prompt)
        self.task = Task(question, root, settings, tools.scorer, tools.budget, tools.tokenizer, extract, self.tree)
        self.task.context = getattr(tools.engine, "context", None)
        self.task.method_of = method_of
        self._scoring: Score | None = None
        self._steps = method(self.task)
        if not hasattr(self._steps, "send"):
            raise TypeError(f"a method is a generator, {tools.name} returned {type(self._steps).__name__}; use yield")
        self._go_on(None)

    # --- the generator ------------------------------------------------------------------------------------------------

    def _go_on(self, value: Any) -> None:
        """Hand it what it waited for, until it waits for something that the engine or a scorer must do."""
        error: SpentError | None = None
        while self.choice is None:
            self.turns += 1
            if self.turns > TURNS * self.tools.budget.legs:
                raise RuntimeError(f"{self.tools.name} yielded {self.turns - 1:,} times and did not end")
            try:
                wanted = self._steps.throw(error) if error is not None else self._steps.send(value)
            except StopIteration as done:
                self._end(done.value)
                return
            except SpentError:
                self._end(self._best())
                return
            value = error = None
            try:
                if isinstance(wanted, Grow):
                    value = self._grow(wanted)
                elif isinstance(wanted, Score):
                    value = self._score(wanted)
                elif isinstance(wanted, Read):
                    value = self.tree.read(wanted.path, wanted.tokens)
                else:
                    raise TypeError(f"a method yields Grow, Score or Read, got {type(wanted).__name__}")
            except SpentError as spent:
                if self.is_spent:
                    self._end(self._best())
                    return
                self.is_spent, error = True, spent
                continue
            if value is None:
                return

    def _end(self, choice: Any) -> None:
        if not isinstance(choice, Choice):
            raise TypeError(f"a method returns a Choice, got {type(choice).__name__}; task.choose(paths) makes one")
        self.choice = choice
        status = self._status()
        self.verdict = Verdict(True, choice.answer, status == "found", len(self.written), False, choice.reason)

    def _status(self) -> str:
        if self.choice is None or self.choice.answer is None:
            return "none"
        return "spent" if self.is_spent else "found"

    def _best(self) -> Choice:
        choice = self.task.choose([path for path in self.tree.legs if path.is_candidate])
        return replace(choice, reason=f"the budget is spent; {choice.reason}")

    # --- growing ------------------------------------------------------------------------------------------------------

    def _grow(self, grow: Grow) -> list[Path] | None:
        self.tree.limit = self.task.limit
        dropped = self.tree.grow(grow)
        if dropped:
            self.news.append(Event("dropped", self, paths=tuple(dropped)))
        return self.tree.grown()

    def requests(self, lent: int = 0) -> list[Request]:
        """What the pending round has not sent yet."""
        return self.tree.unsent()

    def take(self, sample: Sample) -> None:
        """A leg that ended; the method goes on with the last one of its round."""
        path = self._enter(sample)
        if path.is_candidate:
            path.answer = self.task.answer(path)
            self.written[path.number] = Written.of_path(path, None)
        self.news.append(Event("leg", self, number=path.number, paths=(path,)))
        grown = self.tree.grown()
        if grown is not None:
            self._go_on(grown)

    def _enter(self, sample: Sample) -> Path:
        path = self.tree.enter(sample)
        del self.live[path.number]
        return path

    # --- scoring ------------------------------------------------------------------------------------------------------

    def _score(self, score: Score) -> list[tuple[float, ...]] | None:
        if not score.paths:
            return []
        if score.by is None and self.tools.scorer is None:
            raise ValueError(f"{self.tools.name} needs a scorer, got none; name one, signal:raw_logprob for example")
        most = self.tools.budget.scores
        if most is not None and self.scored + len(score.paths) > most:
            raise SpentError(f"the budget of {most:,} scored texts is spent")
        self.scored += len(score.paths)
        self._scoring = score
        return None

    def unscored(self) -> tuple[Scorer | None, Sequence[Candidate]]:
        """The paths of the pending `Score`."""
        if self._scoring is None:
            return None, []
        return self._scoring.by or self.tools.scorer, [
            candidate_of(path, self.question.text) for path in self._scoring.paths
        ]

    def enter(self, scores: Sequence[tuple[float, ...] | None]) -> None:
        """Their numbers; the method goes on."""
        if self._scoring is None:
            return
        paths, by, self._scoring = tuple(self._scoring.paths), self._scoring.by, None
        numbers = [score for score in scores if score is not None]
        if by is None or by is self.tools.scorer:
            for path, mine in zip(paths, numbers):
                path.scores = mine
        self.news.append(Event("scored", self, paths=paths))
        self._go_on(numbers)

    # --- the rest of a strategy ---------------------------------------------------------------------------------------

    def weak(self) -> list[Sample]:
        """A method gives nothing up in the middle of a leg."""
        return []

    def drop(self, sample: Sample, finish: str) -> None:
        """A leg that is not written to its end; its tokens are spent."""
        path = self._enter(sample)
        path.finish = finish

    def judge(self) -> Verdict:
        """Final once the method has returned."""
        return self.verdict

    def close(self) -> None:
        """Release all that is kept, and end the generator."""
        self._steps.close()
        self.tree.close()

    def so_far(self) -> Result:
        """The best of what is finished."""
        for sample in list(self.live.values()):
            self.drop(sample, "cancelled")
        choice = self.task.choose([path for path in self.tree.legs if path.is_candidate])
        self._end(replace(choice, reason=f"interrupted in round {self.tree.rounds}; {choice.reason}"))
        return replace(self.result(), status="interrupted")

    def result(self) -> Result:
        """The chosen path, and the whole tree."""
        choice = self.choice or Choice(None)
        legs = self.tree.legs
        finished = [path for path in legs if path.is_candidate]
        scores = {path: aggregate(path.scores) for path in finished if path.scores}
        samples = tuple(Written.of_path(path, scores.get(path)) for path in finished)
        votes, shares = votes_of(samples)
        scorer = self.tools.scorer
        return Found(
            id=self.question.id,
            question=self.question.text,
            answer=choice.answer,
            status=self._status(),
            reason=choice.reason,
            rule=self.tools.name,
            votes=votes,
            shares=shares,
            samples=samples,
            planned=len(samples),
            counted=len(samples),
            cancelled=sum(path.finish == "cancelled" for path in legs),
            tokens=self.tree.tokens,
            budget_tokens=self.tree.tokens,
            prompt_tokens=len(self.prompt),
            steps=self.steps,
            rounds=self.tree.rounds,
            unparsable=sum(path.answer is None for path in finished),
            seed=self.settings.seed,
            seconds=perf_counter() - self.since,
            text="" if choice.path is None else choice.path.whole(),
            strategy=self.tools.name,
            scorer=None if scorer is None else scorer.name,
            score=choice.score,
            paths=tuple(self.tree.paths),
            legs=len(legs),
            merged=self.task.merged,
            dropped=sum(path.fate == "dropped" for path in legs),
            appended_tokens=sum(path.appended for path in legs),
            scored=self.scored,
            depth=max((path.depth for path in legs), default=0),
            reread=self.tools.is_reread and any(path.depth > 1 for path in legs),
        )
