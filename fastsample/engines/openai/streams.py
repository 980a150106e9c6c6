"""Asks a server for a stream and hands out its bytes as they come: over a connection of its own, or by httpx.

httpx takes 70 us for a chunk, most of it in its layers of tasks, and with hundreds of streams open that was most of
what a vote cost here (bench/server_cost.py tells what is left). So where nothing stands between, which is no proxy, a
connection is read directly: h11 for the request and the head of the answer, `framing` for its body. Certificates are
checked by httpx's own context. Through proxies httpx does everything.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from ...version import __version__
from .framing import Body
from .servers import Server, http_client
from .wire import BrokenError

Feed = Callable[[bytes], bool]  # takes a part of a body; returns whether that was all that is wanted
MOST_AT_ONCE, LONGEST_HEAD = 1 << 14, 1 << 16  # bytes of a read, and of a head
HAPPY = 0.25  # seconds before a host's next address is tried beside its first (RFC 8305)


class NoConnectionError(Exception):
    """The server took no connection, or its certificate is none."""


class SilentError(Exception):
    """The server said nothing for too long."""


class Answer(Protocol):
    """What a server answered."""

    @property
    def status(self) -> int:
        """As 200."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """By names in small letters."""
        ...

    async def each(self, feed: Feed) -> None:
        """Give `feed` the body as it comes, up to its end or until that is enough; raises BrokenError, SilentError."""
        ...


class Client(Protocol):
    """Asks one server."""

    def post(self, url: str, body: bytes) -> Any:
        """An async context manager of the `Answer`; to leave it closes the connection. Raises NoConnectionError,
        SilentError, BrokenError."""
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...


def client_of(server: Server, connect: float, idle: float) -> Client:
    """The client that reaches this server; seconds until a connection stands, and without a byte."""
    return (Direct if is_direct(server.url) else Through)(server, connect, idle)


def is_direct(url: str) -> bool:
    """Whether nothing stands between, by the environment, and the URL is plain enough to be sent as it is."""
    parts, proxies = urlsplit(url), getproxies()
    has_proxy = bool(proxies.keys() & {parts.scheme, "all"}) and not proxy_bypass(parts.hostname or "")
    return not has_proxy and url.isascii() and url.isprintable() and " " not in url


class Direct:
    """A connection for each request."""

    def __init__(self, server: Server, connect: float, idle: float) -> None:
        self.headers = {
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
            "Content-Type": "application/json",
            "User-Agent": f"fastsample/{__version__}",
        } | server.headers
        self.connect, self.idle = connect, idle
        self.context: ssl.SSLContext | None = None
        if server.url.startswith("https:"):
            self.context = http_client().create_ssl_context()
            self.context.set_alpn_protocols(["http/1.1"])

    @asynccontextmanager
    async def post(self, url: str, body: bytes) -> AsyncIterator[Answer]:
        """See `Client`."""
        loop, parts = asyncio.get_running_loop(), urlsplit(url)
        exchange = Exchange(self, loop, parts, body)
        try:
            await self._reach(loop, parts, exchange)
            await exchange.head
            yield exchange
        finally:
            exchange.close()

    async def _reach(self, loop: asyncio.AbstractEventLoop, parts: SplitResult, exchange: Exchange) -> None:
        port = parts.port or (80 if self.context is None else 443)
        # Other loops than asyncio's own, uvloop's for one, may not know it.
        more: dict[str, Any] = {"happy_eyeballs_delay": HAPPY} if isinstance(loop, asyncio.BaseEventLoop) else {}
        opening = loop.create_connection(lambda: exchange, str(parts.hostname), port, ssl=self.context, **more)
        try:
            await asyncio.wait_for(opening, self.connect)
        except (asyncio.TimeoutError, TimeoutError):
            raise NoConnectionError(f"none within {self.connect:g} s") from None
        except OSError as error:  # ssl's are among them
            raise NoConnectionError(str(error) or type(error).__name__) from None

    async def close(self) -> None:
        """Nothing is kept."""


class Exchange(asyncio.BufferedProtocol):
    """A request and its answer."""

    def __init__(self, client: Direct, loop: asyncio.AbstractEventLoop, parts: SplitResult, body: bytes) -> None:
        import h11

        self.h11 = h11
        self.client, self.loop = client, loop
        # asyncio's own reads make room for 256 KB, however few bytes come, which takes 12 us.
        self.buffer = memoryview(bytearray(MOST_AT_ONCE))
        self.head: asyncio.Future[None] = loop.create_future()
        self.all_read: asyncio.Future[None] = loop.create_future()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.request = (parts, body)
        self.talk = h11.Connection(h11.CLIENT, max_incomplete_event_size=LONGEST_HEAD)
        self.body: Body | None = None  # once the head is read
        self.feed: Feed | None = None
        self.early: list[bytes] = []  # of the body, before somebody asked for it
        self.transport: Any = None
        self.last = loop.time()
        self.watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Send the request."""
        self.transport, (parts, body) = transport, self.request
        self.last = self.loop.time()
        self.watch = self.loop.call_later(self.client.idle, self._look)
        host = parts.netloc.rpartition("@")[2]
        headers = {"Host": host, "Content-Length": str(len(body))} | self.client.headers
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            sent = self.talk.send(self.h11.Request(method="POST", target=target, headers=list(headers.items())))
        except self.h11.LocalProtocolError as error:
            self._fall(BrokenError(f"it cannot be asked so ({error})"))
            return
        self.talk.send(self.h11.Data(body))
        self.talk.send(self.h11.EndOfMessage())
        transport.write((sent or b"") + body)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next read goes."""
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes came."""
        self.last = self.loop.time()
        data = bytes(self.buffer[:nbytes])
        try:
            if self.body is None:
                data = self._read_head(data)
            if self.body is not None:
                self._give(self.body.feed(data))
        except Exception as error:  # whatever the reader raises is for whoever awaits
            self._fall(error)

    def _read_head(self, data: bytes) -> bytes:
        """Read on in the head; returns what of the body has come with its end."""
        try:
            self.talk.receive_data(data)
            event = self.talk.next_event()
            while isinstance(event, self.h11.InformationalResponse):
                event = self.talk.next_event()
        except self.h11.RemoteProtocolError as error:
            raise BrokenError(f"no HTTP ({error})") from None
        if event is self.h11.NEED_DATA:
            return b""
        if not isinstance(event, self.h11.Response):
            raise BrokenError("no answer of HTTP")
        self.status = event.status_code
        for name, value in event.headers:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text
        self.body = Body(self.headers)
        if not self.head.done():
            self.head.set_result(None)
        return bytes(self.talk.trailing_data[0])

    def _give(self, content: bytes) -> None:
        if self.feed is None:
            self.early += [content] if content else []
        elif not self.all_read.done() and ((content and self.feed(content)) or (self.body and self.body.is_done)):
            self.all_read.set_result(None)

    async def each(self, feed: Feed) -> None:
        """See `Answer`."""
        self.feed, early, self.early = feed, b"".join(self.early), []
        if (early and feed(early)) or (self.body is not None and self.body.is_done):
            return
        await self.all_read

    def eof_received(self) -> None:
        """The server has no more to say."""
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if exc is None:
            self._end()
        else:
            self._fall(BrokenError(str(exc) or type(exc).__name__))

    def _end(self) -> None:
        try:
            if self.body is None:
                raise BrokenError("the connection was closed before an answer came")
            self.body.end()
            if self.feed is not None and not self.all_read.done():
                self.all_read.set_result(None)
        except BrokenError as error:
            self._fall(error)

    def _look(self) -> None:
        """Whether it was silent for too long."""
        left = self.last + self.client.idle - self.loop.time()
        if left > 0:
            self.watch = self.loop.call_later(left, self._look)
        else:
            self._fall(SilentError())

    def _fall(self, error: Exception) -> None:
        """Tell whoever awaits, now or later."""
        for future in (self.head, self.all_read):
            if not future.done():
                future.set_exception(error)

    def close(self) -> None:
        """At once: a server notices by it that it can stop."""
        if self.watch is not None:
            self.watch.cancel()
        if self.transport is not None:
            self.transport.abort()
        for future in (self.head, self.all_read):
            if not future.cancel() and not future.cancelled():
                future.exception()  # whoever did not ask for it does not want it


class Through:
    """By httpx, and by the proxies that the environment names."""

    def __init__(self, server: Server, connect: float, idle: float) -> None:
        httpx = http_client()
        self.client = httpx.AsyncClient(
            headers=server.headers | {"Connection": "close", "Content-Type": "application/json"},
            timeout=httpx.Timeout(idle, connect=connect, pool=None),
            limits=httpx.Limits(max_keepalive_connections=0, max_connections=None),
        )

    @asynccontextmanager
    async def post(self, url: str, body: bytes) -> AsyncIterator[Answer]:
        """See `Client`."""
        with told_by_httpx():
            async with self.client.stream("POST", url, content=body) as answer:
                yield ByHttpx(answer)

    async def close(self) -> None:
        """Close what is open."""
        await self.client.aclose()


class ByHttpx:
    """An answer that httpx reads."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.status, self.headers = answer.status_code, answer.headers

    async def each(self, feed: Feed) -> None:
        """See `Answer`."""
        with told_by_httpx():
            async for data in self.answer.aiter_bytes():
                if feed(data):
                    break


@contextmanager
def told_by_httpx() -> Iterator[None]:
    """Its errors as ours."""
    httpx = http_client()
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise NoConnectionError(str(error)) from None
    except httpx.ReadTimeout:
        raise SilentError from None
    except httpx.HTTPError as error:
        raise BrokenError(str(error) or type(error).__name__) from None
