"""Asks a server over HTTP by aiohttp, a connection for each request, and hands out its answer's bytes as they come.

aiohttp reads HTTP by a parser in C, whatever has come at once. The proxies are those that the environment names, found
by the standard library: aiohttp's own look for them (`trust_env`) passes ALL_PROXY by, and sends passwords of ~/.netrc.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from ...version import __version__
from .servers import Server, ServerError
from .wire import BrokenError

Feed = Callable[[bytes], bool]  # takes a part of a body; returns whether that was all that is wanted


class NoConnectionError(Exception):
    """The server took no connection, or its certificate is none."""


class SilentError(Exception):
    """The server said nothing for too long."""


def http_client() -> ModuleType:
    """The module aiohttp; raises ModuleNotFoundError, with the remedy, where it is not installed."""
    try:
        import aiohttp
    except ModuleNotFoundError:
        raise ModuleNotFoundError("servers are reached by aiohttp; pip install aiohttp", name="aiohttp") from None
    return aiohttp


def within(seconds: float) -> Any:
    """An async context manager that raises TimeoutError after so long."""
    if sys.version_info >= (3, 11):
        return asyncio.timeout(seconds)
    import async_timeout  # aiohttp brings it

    return async_timeout.timeout(seconds)


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a URL, or None; raises ServerError for one that is not spoken to."""
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    kind = urlsplit(proxy).scheme
    if kind not in ("http", "https"):
        raise ServerError(
            f"a proxy must be one of HTTP, and the environment names one of {kind} for {url}; name another one, or "
            "except the server in NO_PROXY"
        )
    return proxy


class Client:
    """Asks one server; made inside the event loop that uses it. connect, idle: seconds, see `Patience`."""

    def __init__(self, server: Server, connect: float, idle: float) -> None:
        aiohttp = http_client()
        self.server, self.proxy = server, proxy_of(server.url)
        self.connect, self.idle = connect, idle
        # aiohttp's own context is made when it is imported, and SSL_CERT_FILE may be set later.
        context = ssl.create_default_context() if server.url.startswith("https:") else True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True, ssl=context),
            headers=server.headers
            | {
                "Accept-Encoding": "identity",
                "Connection": "close",
                "Content-Type": "application/json",
                "User-Agent": f"fastsample/{__version__}",
            },
            timeout=aiohttp.ClientTimeout(total=None, connect=connect),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    @asynccontextmanager
    async def post(self, path: str, body: Any) -> AsyncIterator[Answer]:
        """Send JSON, and read the answer inside; to leave closes the connection at once, and the server hears it.

        raises: NoConnectionError, SilentError, BrokenError
        """
        data = json.dumps(body, allow_nan=False).encode()
        with self.told():
            # A redirect is not followed: the key is for this server alone.
            async with within(self.connect + self.idle):
                response = await self._session.post(
                    self.server.url + path, data=data, proxy=self.proxy, allow_redirects=False
                )
        try:
            yield Answer(self, response)
        finally:
            response.close()

    async def ask(self, path: str, seconds: float, body: Any = None) -> tuple[int, bytes]:
        """(status, whole body) of what is got, or posted with a body of JSON, within so many seconds in all.

        raises: NoConnectionError, SilentError, BrokenError
        """
        limits = http_client().ClientTimeout(total=seconds)
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        with self.told():
            async with self._session.request(
                "GET" if body is None else "POST",
                self.server.url + path,
                data=data,
                proxy=self.proxy,
                allow_redirects=False,
                timeout=limits,
            ) as response:
                return response.status, await response.read()

    async def close(self) -> None:
        """Close what is open."""
        await self._session.close()

    @contextmanager
    def told(self) -> Iterator[None]:
        """aiohttp's errors as ours."""
        aiohttp = http_client()
        try:
            yield
        except aiohttp.ConnectionTimeoutError:
            raise NoConnectionError(f"none within {self.connect:g} s") from None
        except aiohttp.ClientHttpProxyError as error:  # its own words hold the proxy's URL
            raise NoConnectionError(f"the proxy answered {error.status}: {error.message}") from None
        except aiohttp.ClientConnectorError as error:  # the reason alone, without the host that is named in front of it
            raise NoConnectionError(str(error.__cause__ or error)) from None
        except asyncio.TimeoutError:
            raise SilentError from None
        except aiohttp.ClientResponseError as error:
            raise BrokenError(f"no HTTP: {error.message}") from None
        except (aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError, OSError) as error:
            raise BrokenError(str(error) or type(error).__name__) from None


class Answer:
    """What a server answered. status: as 200; headers: whatever their case"""

    def __init__(self, client: Client, response: Any) -> None:
        self._client, self._response = client, response
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers

    async def each(self, feed: Feed) -> None:
        """Give `feed` the body as it comes, up to its end or until that is enough; raises BrokenError, SilentError."""
        # aiohttp's sock_read costs a new timer for each read, and sleeps once its parser in C has met a chunk that is
        # none (3.10 to 3.14), of which nobody else is told either.
        loop, idle = asyncio.get_running_loop(), self._client.idle
        last, is_silent = loop.time(), False
        watch: asyncio.TimerHandle

        def look() -> None:
            nonlocal watch, is_silent
            left = last + idle - loop.time()
            is_silent = left <= 0
            if is_silent:
                self._response.close()  # whoever reads is woken
            else:
                watch = loop.call_later(left, look)

        watch = loop.call_later(idle, look)
        try:
            with self._client.told():
                async for data in self._response.content.iter_any():
                    last = loop.time()
                    if feed(data):
                        return
        except BrokenError:
            if is_silent:
                raise SilentError from None
            raise
        finally:
            watch.cancel()
