"""Which server writes a sample, and how long one that fails is left alone. Lives in one event loop."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from time import time

from .servers import Server
from .streams import Client, NoConnectionError, SilentError
from .wire import ABORT, BrokenError

MISFITS = 4  # after so many and none that fits, a server's events are no tokens: some gateways cut texts otherwise
LONGEST_REST = 300.0  # seconds that a server may ask us to wait; one that asks for more is asked again then


@dataclass(frozen=True)
class Patience:
    """Seconds and numbers; the defaults suit servers under load.

    connect, idle: until a connection stands; without a byte of an answer
    retries:       how often a sample begins again before it fails
    again:         before it does: evenly random, from the first to at most the second, which doubling reaches
    rest:          that a server which refuses connections is left alone, doubling from the first to the second
    """

    connect: float = 10.0
    idle: float = 120.0
    retries: int = 6
    again: tuple[float, float] = (0.5, 20.0)
    rest: tuple[float, float] = (2.0, 30.0)

    def before_again(self, failures: int) -> float:
        """Seconds to wait after so many failures of a sample."""
        low, high = self.again
        return random.uniform(low, max(low, min(high, 2 * low * 2.0 ** min(failures, 30))))


@dataclass(eq=False)
class Place:
    """A server, how many samples it may have and has open; client: keeps no connection."""

    server: Server
    client: Client
    slots: int
    open: int = 0
    rests_until: float = 0.0
    refusals: int = 0
    fitting: int = 0  # answers whose tokens were no more than it counted, and answers with more
    misfits: int = 0

    def fits(self, is_fitting: bool) -> bool:
        """Whether an answer can be believed: its tokens fit the server's count, or at this server they never do."""
        self.fitting += is_fitting
        self.misfits += not is_fitting
        return is_fitting or (not self.fitting and self.misfits > MISFITS)


@dataclass
class Pool:
    """The servers of an engine."""

    places: list[Place]
    patience: Patience
    aborts: set[asyncio.Task[None]] = field(default_factory=set)  # under way
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def order(self, prompt: bytes) -> list[Place]:
        """The servers in a prompt's own order (rendezvous hashing): the first one has it in its cache."""

        def weight(place: Place) -> bytes:
            return blake2b(prompt + place.server.url.encode(), digest_size=8).digest()

        return sorted(self.places, key=weight, reverse=True)

    async def acquire(self, prompt: bytes, n: int) -> Place:
        """A server with room for `n` samples: the prompt's first, the next where that one is full or rests."""
        order, loop = self.order(prompt), asyncio.get_running_loop()
        while True:
            now = loop.time()
            for place in order:
                if place.rests_until <= now and (place.open + n <= place.slots or not place.open):
                    place.open += n
                    return place
            resting = [p.rests_until - now for p in order if p.rests_until > now]
            self._changed.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(resting, default=None))

    def release(self, place: Place, n: int) -> None:
        """Give room back."""
        place.open -= n
        self._changed.set()

    def served(self, place: Place) -> None:
        """It answered: forget its refusals."""
        place.refusals = 0

    def refused(self, place: Place) -> None:
        """It took no connection: leave it alone, longer each time; of many at once, one counts."""
        now = asyncio.get_running_loop().time()
        if place.rests_until <= now:
            low, high = self.patience.rest
            place.rests_until = now + min(high, low * 2.0 ** min(place.refusals, 30))
            place.refusals += 1

    def abort(self, place: Place, rid: str) -> None:
        """Tell a server, beside everything else, that nobody waits for this request any more."""

        async def tell() -> None:
            with suppress(NoConnectionError, SilentError, BrokenError):  # then it writes on: nothing else can be done
                await place.client.ask(ABORT, self.patience.connect, {"rid": rid})

        task = asyncio.get_running_loop().create_task(tell())
        self.aborts.add(task)
        task.add_done_callback(self.aborts.discard)

    def rest(self, place: Place, seconds: float) -> None:
        """It asked to be left alone for so long."""
        until = asyncio.get_running_loop().time() + min(seconds, LONGEST_REST)
        place.rests_until = max(place.rests_until, until)


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None where it says nothing."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if seconds == seconds else None
