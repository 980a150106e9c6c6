"""Samples written by one or several OpenAI-compatible servers, one streamed request a sample, closed to end it.

A thread of its own runs an event loop with the requests; what comes goes through a queue to the caller's thread, which
alone touches the samples. Always streamed: some servers write on to the end where a plain request is dropped. No
connection is used twice: some servers close idle ones under one's hands.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from struct import pack
from typing import Any, TypeVar

from ..base import UNTOLD, Request, Runs, Sample, Traits, numbered
from .chat import ChatTokenizer
from .job import Attempts, Job, News
from .pool import Patience, Place, Pool
from .probe import TRIAL, Hello, greet, one_of, same_ids, watch
from .servers import Server, ServerError
from .streams import Client, http_client
from .wire import Dialect, Piece, Usage, check

Found = TypeVar("Found")
WAIT = 0.5  # seconds that a step waits for news, so that whoever calls it can look around


class ServerEngine(Runs):
    """Writes samples by servers that serve one model; a context manager that closes it.

    servers:      `Server`s, or their URLs
    tokenizer:    the model's own: prompts are sent as its token ids, so that the server reads what was made here. None
                  sends chats, and the server puts its own template around them; `engine.tokenizer` then stands in
    slots:        the largest number of samples open at once; None = the servers' own together
    patience:     how long to wait and how often to try again
    top_logprobs: 20 asks for the log-probabilities that `Confidence` needs; 0 does not
    seeds:        send each sample's seed; a server may repeat its text then, and some fail (docs/engines.md). A vLLM
                  server with FastDraw is always told seed and stream, and draws our tokens
    on_piece:     called with (sample, piece of its text) as text comes; a sample that begins again has no text first

    raises: ServerError, in one sentence, for a server that cannot be used
    """

    def __init__(
        self,
        servers: Iterable[Server | str],
        tokenizer: Any = None,
        *,
        slots: int | None = None,
        patience: Patience | None = None,
        top_logprobs: int = 0,
        seeds: bool = False,
        on_piece: Callable[[Sample, str], None] | None = None,
    ) -> None:
        named = [Server(s) if isinstance(s, str) else s for s in servers]
        if not named or len({s.url for s in named}) < len(named):
            raise ServerError("servers must name at least one, and none of them twice")
        if top_logprobs not in (0, 20):
            raise ServerError(f"top_logprobs must be 0 or 20, got {top_logprobs}; 20 is what a certainty is made of")
        http_client()  # look whether it is there, before anything is begun
        self.patience = patience or Patience()
        self.on_piece = on_piece
        self.steps = self.prefill_tokens = self.wasted_tokens = 0
        self.waiting: list[Sample] = []
        self._submitted = 0
        self._running: dict[int, Sample] = {}  # by id
        self._jobs: dict[int, tuple[Job, Future[None]]] = {}  # by the id of each of a job's samples that is open
        self._news: SimpleQueue[News] = SimpleQueue()
        self._pool = Pool([], self.patience)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fastsample-servers", daemon=True)
        self._thread.start()
        try:
            self.hellos: list[Hello] = self._wait(self._greet(named))
            hello = one_of(self.hellos)
            if tokenizer is not None:
                for place, each in zip(self._pool.places, self.hellos):
                    self._wait(same_ids(place.client, each, tokenizer, self.patience.connect))
            rooms = [place.slots for place in self._pool.places]
            self.slots = slots or sum(rooms)
            if self.slots < 1:
                raise ServerError(f"slots must be at least 1, got {slots}")
        except BaseException:
            self.close()
            raise
        self.tokenizer = ChatTokenizer() if tokenizer is None else tokenizer
        self.dialect = Dialect(
            hello.kind, hello.model, tokenizer is not None, top_logprobs > 0, seeds, has_draw=hello.has_draw
        )
        # llama.cpp reads equal prompts again for each request, and once for a request of n samples.
        self._most = min(rooms) if hello.kind == "llama.cpp" else 1
        self.traits = Traits(
            hello.name,
            hello.model,
            draws="fastsample" if hello.has_draw else "seeded" if seeds else "free",
            certainty="top20" if top_logprobs else "none",
            cancels="group" if self._most > 1 else "sample",
            token_ids=tokenizer is not None and hello.kind == "vllm",
        )

    def _wait(self, asked: Coroutine[Any, Any, Found]) -> Found:
        """Have the other thread do something, and wait for what it finds."""
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result()

    async def _greet(self, servers: Sequence[Server]) -> list[Hello]:
        """Give each server its place, and ask what it is."""
        p, hellos = self.patience, []
        for server in servers:
            client = Client(server, p.connect, p.idle)
            place = Place(server, client, server.slots)
            self._pool.places.append(place)
            hellos.append(await greet(client, p.connect))
            place.slots = min(server.slots, hellos[-1].slots or server.slots)
        return hellos

    @property
    def running(self) -> list[Sample]:
        """Samples that a server was asked for."""
        return list(self._running.values())

    def submit(self, requests: Iterable[Request]) -> list[Sample]:
        """Queue the requests, in order; returns their samples at once. Nothing is queued if one of them is refused."""
        samples = []
        for request in numbered(requests, self._submitted):
            check(request, self.dialect)
            samples.append(Sample(request))
        self._submitted += len(samples)
        self.waiting += samples
        self._launch()
        return samples

    def cancel(self, samples: Iterable[Sample]) -> None:
        """End samples at once, and close what was open for them; finished ones are left as they are."""
        for sample in samples:
            if sample.finish is None:
                self._end(sample, "cancelled")
        self.waiting = [s for s in self.waiting if s.finish is None]

    def step(self) -> list[Sample]:
        """Wait for news, for half a second at most, and take in all there is; returns the samples that ended."""
        self._launch()
        if not self._running:
            return []
        if not self._thread.is_alive():
            raise RuntimeError("the engine was closed; make another one")
        ended: list[Sample] = []
        try:
            self._take(self._news.get(timeout=WAIT), ended)
            while True:
                self._take(self._news.get_nowait(), ended)
        except Empty:
            pass
        self.steps += 1
        self._launch()
        return ended

    def close(self) -> None:
        """End everything; a second time does nothing."""
        if not self._thread.is_alive():
            return
        self.cancel([*self.waiting, *self.running])
        self._wait(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _shut(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()} - self._pool.aborts
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._pool.aborts:  # those of what was just ended, too
            await asyncio.wait(self._pool.aborts, timeout=self.patience.connect)
        for place in self._pool.places:
            await place.client.close()

    def __enter__(self) -> ServerEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def watch(self) -> str | None:
        """Look, by a short text, whether each server stops when its stream is closed; before the first request.

        returns: a sentence where one writes on; `traits.cancels` is "none" then
        """
        turn = [{"role": "user", "content": "Count from 1 to 1000, with a comma between the numbers."}]
        text = self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        request = Request(tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"]), max_new_tokens=TRIAL)
        for place in self._pool.places:
            sentence = self._wait(watch(place.client, self.dialect, request, self.patience.idle))
            if sentence is not None:
                self.traits = replace(self.traits, cancels="none")
                return sentence
        return None

    def _launch(self) -> None:
        """Ask for waiting samples while there are slots: single ones, or groups that share a prompt."""
        while self.waiting and len(self._running) < self.slots:
            first = self.waiting[0].request
            most = min(self._most, self.slots - len(self._running))
            group = [s for s in self.waiting if _are_alike(s.request, first)][:most] if most > 1 else self.waiting[:1]
            taken = {id(s) for s in group}
            self.waiting = [s for s in self.waiting if id(s) not in taken]
            job = Job(group, pack(f"<{len(first.prompt)}q", *first.prompt), self.dialect)
            future = asyncio.run_coroutine_threadsafe(Attempts(job, self._pool, self._news.put).run(), self._loop)
            future.add_done_callback(partial(self._fell, job))
            for sample in group:
                self._running[id(sample)] = sample
                self._jobs[id(sample)] = (job, future)

    def _fell(self, job: Job, done: Future[None]) -> None:
        """A fault of ours in the other thread: its samples fail, and the run goes on."""
        if not done.cancelled() and done.exception() is not None:
            error = done.exception()
            self._news.put(News(job, "failed", samples=job.samples, error=f"{type(error).__name__}: {error}"))

    def _end(self, sample: Sample, finish: str) -> None:
        sample.finish = finish
        self._running.pop(id(sample), None)
        job, future = self._jobs.pop(id(sample), (None, None))
        if job is not None and future is not None and finish == "cancelled" and not self._is_open(job):
            future.cancel()

    def _is_open(self, job: Job) -> bool:
        return any(s.finish is None for s in job.samples)

    def _take(self, news: News, ended: list[Sample]) -> None:
        if news.reading is not None:
            self.prefill_tokens += news.reading[1]
        for sample in news.samples or ():
            if news.reading is not None:
                sample.prompt_tokens = news.reading[0]
            if sample.finish is None and news.kind == "again":
                self.wasted_tokens += len(sample.tokens)
                sample.tokens, sample.stats, sample.text = [], [], ""
            elif sample.finish is None and news.kind == "failed":
                sample.error = news.error
                self._end(sample, "failed")
                ended.append(sample)
        for sample, piece in news.pieces or ():
            if sample.finish is None and self._write(sample, piece, news.usage):
                ended.append(sample)

    def _write(self, sample: Sample, piece: Piece, usage: Usage | None) -> bool:
        """Take in a piece; returns whether the sample ended with it. usage: of an only sample's end."""
        room = sample.request.max_new_tokens - len(sample.tokens)
        sample.tokens += piece.tokens[:room]
        sample.stats += piece.stats[:room]
        sample.text += piece.text
        finish = piece.finish
        if finish is not None:
            # An end's own token is not shown, and an event may hold several: what a server counts is believed, up to
            # the limit.
            told = usage.written if usage is not None else len(sample.tokens) + (finish == "eos" and not piece.tokens)
            missing = min(told, sample.request.max_new_tokens) - len(sample.tokens)
            sample.tokens += [UNTOLD] * missing
        if piece.text and self.on_piece is not None:
            self.on_piece(sample, piece.text)
        if len(piece.tokens) > room:  # it was told where to end, and writes on
            finish = "length"
            job, future = self._jobs[id(sample)]
            if len(job.samples) == 1:
                future.cancel()
        if finish is None:
            return False
        sample.error = piece.error
        self._end(sample, finish)
        return True


def _are_alike(a: Request, b: Request) -> bool:
    names = ("prompt", "temperature", "top_k", "top_p", "min_p", "max_new_tokens", "stop", "penalties")
    return all(getattr(a, name) == getattr(b, name) for name in names)
