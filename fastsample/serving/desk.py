"""Between clients and the engine: one thread that alone touches the engine, and a bounded number of open requests."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

from ..engines.base import Engine
from ..solving.scheduler import PAUSE, Scheduler, reader_of
from ..strategies.base import Strategy
from ..strategies.events import Event
from ..strategies.question import Question, Settings
from ..strategies.records import Result
from ..strategies.self_consistency import SelfConsistency
from .asked import Asked, AskedError
from .likeliest import Spelling
from .said import Stream

LOOK = 0.1  # seconds between two looks at the queue where nothing is being written
log = logging.getLogger("fastsample.serve")


@dataclass(eq=False)
class Job:
    """A request that was taken in.

    tell:     called on the desk's thread with ("chunks", what a stream says next), ("result", Result) or
              ("error", AskedError)
    stream:   makes the chunks; strategy: once it is being answered
    """

    asked: Asked
    tell: Callable[[str, Any], None]
    stream: Stream
    strategy: Strategy | None = None
    is_over: bool = False


class Desk:
    """Answers requests over an engine.

    most: requests taken in and not over yet; one more is refused with 429
    on_over: called with each request that is over, and its result or None
    """

    def __init__(
        self, engine: Engine, tokenizer: Any, *, most: int = 256, on_over: Callable[[Asked, Result | None], None]
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.spelling = Spelling(tokenizer)
        self.most = most
        self.on_over = on_over
        self.faults = 0
        self.jobs: dict[str, Job] = {}
        self._lock = threading.Lock()  # of jobs
        self._arrived: SimpleQueue[Job] = SimpleQueue()
        self._dropped: SimpleQueue[Job] = SimpleQueue()
        self._is_closing = False
        self._scheduler: Scheduler | None = None
        self._thread = threading.Thread(target=self._work, name="fastsample-desk", daemon=True)
        self._thread.start()

    @property
    def is_well(self) -> bool:
        """Whether it can take requests."""
        return self._thread.is_alive() and not self._is_closing

    def ask(self, asked: Asked, tell: Callable[[str, Any], None]) -> Job:
        """Take a request in; raises AskedError with 429 where there are too many, and with 503 at the end."""
        job = Job(asked, tell, Stream(asked, self.spelling))
        with self._lock:
            if not self.is_well:
                raise AskedError("the server is shutting down; ask again later", 503)
            if len(self.jobs) >= self.most:
                raise AskedError(f"{self.most} requests are open already; ask again in a second", 429)
            self.jobs[asked.name] = job
        self._arrived.put(job)
        return job

    def drop(self, job: Job) -> None:
        """The client went: its rows leave the batch before the next step."""
        if not job.is_over:
            self._dropped.put(job)

    def close(self, seconds: float = 10.0) -> None:
        """Give up what is open, and end the thread."""
        with self._lock:
            self._is_closing = True
            left = list(self.jobs.values())
        for job in left:
            self._dropped.put(job)
        self._thread.join(seconds)

    def _work(self) -> None:
        while not self._is_closing:
            scheduler = self._scheduler = Scheduler(
                self.engine, self.tokenizer, Settings(), lambda text: None, on_event=self._hear, strategy=self._make
            )
            if hasattr(self.engine, "on_piece"):
                self.engine.on_piece = scheduler.on_piece
            try:
                for result in scheduler.run(self._arrivals(scheduler), between=self._between):
                    self._answer(result)
            except Exception:  # of the engine: whoever waits is told, and the next request finds it working, or not
                log.exception("the engine failed")
                self.faults += 1
                error = AskedError("the engine failed; ask again", 500)
                for job in list(self.jobs.values()):
                    if job.strategy is not None:
                        self._end(job, "error", error, None)

    def _arrivals(self, scheduler: Scheduler) -> Iterator[Any]:
        while not self._is_closing or scheduler.open:
            try:
                job = self._arrived.get(block=not scheduler.open, timeout=LOOK)
            except Empty:
                yield PAUSE
                continue
            if job.is_over:
                continue
            try:
                yield self._question(job.asked)
            except Exception as error:  # of the tokenizer
                self._end(job, "error", AskedError(str(error)), None)

    def _question(self, asked: Asked) -> Question:
        question = replace(asked.question, id=asked.name)
        if asked.text is None:
            return question
        return replace(question, prompt=tuple(self.tokenizer(asked.text)["input_ids"]))

    def _make(
        self, question: Question, prompt: tuple[int, ...], settings: Settings, extract: Any, serial: int
    ) -> Strategy:
        job = self.jobs[question.id]
        asked, read = job.asked, reader_of(job.asked.extract)
        if asked.growth is None:
            job.strategy = SelfConsistency(question, prompt, asked.settings, read, serial, asked.top_logprobs)
        else:
            job.strategy = asked.growth.begin(
                self.engine, self.tokenizer, question, prompt, asked.settings, read, serial
            )
        return job.strategy

    def _between(self) -> None:
        while True:
            try:
                job = self._dropped.get_nowait()
            except Empty:
                return
            if not job.is_over:
                if job.strategy is not None and self._scheduler is not None:
                    self._scheduler.abandon(job.strategy)
                self._end(job, "error", AskedError("the request was given up", 499), None)

    def _hear(self, event: Event) -> None:
        job = self.jobs.get(event.strategy.question.id)
        if job is None or not job.asked.is_stream:
            return
        try:
            chunks = job.stream.of(event)  # here, where nobody changes the strategy meanwhile
        except ValueError as error:
            self._dropped.put(job)
            job.tell("error", AskedError(str(error), 502))
            return
        if chunks:
            job.tell("chunks", chunks)

    def _answer(self, result: Result) -> None:
        job = self.jobs.get(result.id)
        if job is None:
            return
        if result.error is None:
            self._end(job, "result", result, result)
            return
        kind, _, words = result.error.partition(": ")
        is_client_s = kind in ("ValueError", "TypeError")
        self._end(job, "error", AskedError(words, 400 if is_client_s else 500), None)

    def _end(self, job: Job, kind: str, said: Any, result: Result | None) -> None:
        job.is_over = True
        with self._lock:
            self.jobs.pop(job.asked.name, None)
        self.on_over(job.asked, result)
        job.tell(kind, said)
