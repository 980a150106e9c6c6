"""One request to a server, for one sample or a group of them, begun again until it is answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..base import Sample
from .pool import Place, Pool, retry_after
from .streams import Answer, NoConnectionError, SilentError
from .wire import (
    BrokenError,
    Dialect,
    Events,
    Piece,
    Usage,
    body_of,
    error_in,
    pieces_of,
    reading_of,
    usage_of,
)

PASSING = frozenset({408, 409, 425, 429})  # and 5xx: another try may be answered
MOST_READ = 1 << 16  # bytes of an error's body
PINGS = 10  # so many idle times may be filled with pings and no news


class RefusedError(Exception):
    """The server will not serve this request, however often it is asked."""


@dataclass(eq=False)
class Job:
    """Samples with one prompt and equal parameters, asked for together. `prompt` chooses the server."""

    samples: list[Sample]
    prompt: bytes
    dialect: Dialect


@dataclass(eq=False)
class News:
    """What came for a job: pieces for its samples, its server's count; or that samples begin again or fail.

    kind:    "pieces", "again" or "failed"; samples: whom the rest is about
    usage:   the server's count, with the end of an only sample
    reading: tokens of the prompt, and of these read: once for each sample that is told of
    """

    job: Job
    kind: str
    pieces: list[tuple[Sample, Piece]] | None = None
    usage: Usage | None = None
    reading: tuple[int, int] | None = None
    samples: list[Sample] | None = None
    error: str = ""


class Attempts:
    """Does one job; everything that happens is told to `tell`, in order."""

    def __init__(self, job: Job, pool: Pool, tell: Callable[[News], None]) -> None:
        self.job = job
        self.pool = pool
        self.tell = tell
        self.ended: set[int] = set()  # ids of samples whose end was told

    async def run(self) -> None:
        """Ask until every sample has ended, or for as long as patience lasts."""
        failures = 0
        while left := self._left():
            place = await self.pool.acquire(self.job.prompt, len(left))
            reason, wait = "", False
            try:
                await self._ask(place, left)
                self.pool.served(place)
                continue
            except RefusedError as refusal:
                self._fail(str(refusal))
                return
            except _AgainError as again:
                reason, wait = str(again), again.wait
            finally:
                self.pool.release(place, len(left))
            failures += 1
            if failures > self.pool.patience.retries:
                self._fail(f"{reason}; given up after {failures} tries")
                return
            self.tell(News(self.job, "again", samples=self._left()))
            await asyncio.sleep(self.pool.patience.before_again(failures) if wait else 0.0)

    def _left(self) -> list[Sample]:
        return [s for s in self.job.samples if id(s) not in self.ended and s.finish is None]

    def _fail(self, reason: str) -> None:
        self.tell(News(self.job, "failed", samples=self._left(), error=reason))

    async def _ask(self, place: Place, left: list[Sample]) -> None:
        server, is_over = place.server, False
        rid = self.job.dialect.new_name()
        body = body_of(left[0].request, self.job.dialect, len(left), rid)
        try:
            async with place.client.post(self.job.dialect.path, body) as answer:
                is_over = not _is_stream(answer)
                await self._look(place, answer)
                await self._read(place, answer, left)
                is_over = True
        except NoConnectionError as error:
            is_over = True
            self.pool.refused(place)
            raise _AgainError(f"{server.url} takes no connection ({server.words(str(error))})", wait=False) from None
        except SilentError:
            raise _AgainError(f"{server.url} was silent for {self.pool.patience.idle:g} s") from None
        except BrokenError as error:
            raise _AgainError(f"an answer of {server.url} broke off ({server.words(str(error))})") from None
        finally:
            if rid is not None and not is_over:
                self.pool.abort(place, rid)

    async def _look(self, place: Place, answer: Answer) -> None:
        """Raise for a status that is no success, and for an answer that is no stream."""
        status, server = answer.status, place.server
        if _is_stream(answer):
            return
        said = bytearray()

        def take(data: bytes) -> bool:
            said.extend(data)
            return len(said) > MOST_READ

        await answer.each(take)
        words = server.words(_sentence_in(bytes(said)))
        if status == 200:
            found = error_in(_json(bytes(said)))
            if found is None:
                raise BrokenError(f"no stream of events but {answer.headers.get('content-type')}")
            self._raise_error(place, server.words(found[0]), found[1])
        asked = retry_after(answer.headers.get("retry-after"))
        if status in PASSING or status >= 500:
            if asked is not None:
                self.pool.rest(place, asked)
            raise _AgainError(f"{server.url} answered {status}: {words}", wait=asked is None)
        raise RefusedError(f"{server.url} answered {status}: {words}")

    def _raise_error(self, place: Place, words: str, status: int | None) -> None:
        sentence = f"{place.server.url} answered with an error: {words}"
        if status is not None and 400 <= status < 500 and status not in PASSING:
            raise RefusedError(sentence)
        raise _AgainError(sentence)

    async def _read(self, place: Place, answer: Answer, left: list[Sample]) -> None:
        """Tell what comes, until the server says that it is done.

        A single sample's end is told only once the server's count of its tokens has come: where fewer were written
        than came here, something came twice.
        """
        events, clock = Events(), asyncio.get_running_loop().time
        held: list[tuple[Sample, Piece]] = []
        came, usage, last = 0, None, clock()
        before, is_repeated = None, False
        told: set[int] = set()  # choices of which the reading was told

        def take(data: bytes) -> bool:
            nonlocal came, usage, last, before, is_repeated
            now: list[tuple[Sample, Piece]] = []
            for event in events.feed(data):
                found = error_in(event)
                if found is not None:
                    self._raise_error(place, place.server.words(found[0]), found[1])
                usage = usage_of(event) or usage
                is_repeated, before = is_repeated or event == before, event
                self._tell_reading(event, left, told)
                for sample, piece in self._of(pieces_of(event), left):
                    came += len(piece.tokens)
                    if piece.finish is not None:
                        self.ended.add(id(sample))
                    (held if piece.finish is not None and len(left) == 1 else now).append((sample, piece))
            if now:
                self.tell(News(self.job, "pieces", pieces=now))
                last = clock()
            elif clock() - last > PINGS * self.pool.patience.idle:
                raise BrokenError("pings and no news")
            return events.is_done

        try:
            await answer.each(take)
        except (BrokenError, SilentError):
            if not held:  # what follows an end may be missing
                raise
        if held and usage is not None:
            # The end's own token, which is not shown, is counted by most servers but not by all.
            least = came + (is_repeated and held[0][1].finish == "eos")
            if not place.fits(least <= usage.written):
                self.ended.clear()
                raise BrokenError(f"{came} tokens came, and fewer were written by its own count")
        if held:
            self.tell(News(self.job, "pieces", pieces=held, usage=usage))
        if self._left():
            raise BrokenError("it ended in the middle")

    def _tell_reading(self, event: Any, left: list[Sample], told: set[int]) -> None:
        reading = reading_of(event)
        choices = event.get("choices") if isinstance(event, dict) and reading else None
        index = choices[0].get("index") if choices and isinstance(choices[0], dict) else 0
        if reading is not None and index not in told and type(index) is int and 0 <= index < len(left):
            told.add(index)
            self.tell(News(self.job, "pieces", reading=reading, samples=[left[index]]))

    def _of(self, pieces: list[Piece], left: list[Sample]) -> list[tuple[Sample, Piece]]:
        """Each piece with its sample; what comes behind a sample's end is passed by."""
        for piece in pieces:
            if not 0 <= piece.index < len(left):
                raise BrokenError(f"choice {piece.index} of {len(left)}")
        return [(left[p.index], p) for p in pieces if id(left[p.index]) not in self.ended]


class _AgainError(Exception):
    """The sample begins again; wait: whether after a while of its own, or as soon as a server may be asked."""

    def __init__(self, reason: str, wait: bool = True) -> None:
        super().__init__(reason)
        self.wait = wait


def _is_stream(answer: Answer) -> bool:
    return answer.status == 200 and answer.headers.get("content-type", "").startswith("text/event-stream")


def _json(said: bytes) -> Any:
    try:
        return json.loads(said)
    except (ValueError, RecursionError):
        return None


def _sentence_in(said: bytes) -> str:
    """A server's words in the body of an error, whatever its form."""
    body = _json(said)
    found = error_in(body)
    if found is not None:
        return found[0]
    detail = body.get("detail") or body.get("message") if isinstance(body, dict) else None
    return str(detail) if detail else said[:1000].decode("utf-8", "replace")
