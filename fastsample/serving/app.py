"""The HTTP side: routes, keys, limits and streams, on Starlette. Everything that is said of a request is in `said`."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ..engines.base import Engine
from ..strategies.records import Result
from .asked import Asked, AskedError, Limits, read
from .desk import Desk, Job
from .said import whole

PAGE = Path(__file__).parent / "page.html"
LOOK = 0.1  # seconds between two looks whether a client is still there
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
SAFE = {"content-security-policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
        "connect-src 'self'", "x-content-type-options": "nosniff"}  # fmt: skip


class Service:
    """An engine behind HTTP.

    model: the name that clients call it by; key: what they must send, None asks for none
    most:  requests open at once; hosts: names by which it may be called, None takes any
    """

    def __init__(
        self, engine: Engine, tokenizer: Any, *, model: str, key: str | None = None, limits: Limits | None = None,
        most: int = 256, hosts: tuple[str, ...] | None = LOOPBACK,
    ) -> None:  # fmt: skip
        self.engine = engine
        self.model = model
        self.key = key
        self.limits = limits or Limits()
        self.since = int(time())
        self.desk = Desk(engine, tokenizer, most=most, on_over=self._over)
        self.registry = CollectorRegistry()
        self.requests = Counter("fastsample_requests", "Requests by status.", ["status"], registry=self.registry)
        self.tokens = Counter("fastsample_tokens", "Tokens written.", registry=self.registry)
        self.saved = Counter("fastsample_saved_tokens", "Tokens that early exit saved.", registry=self.registry)
        for name, words, value in (
            ("open_requests", "Requests taken in and not over.", lambda: len(self.desk.jobs)),
            ("running_samples", "Samples that are being written.", lambda: len(engine.running)),
            ("waiting_samples", "Samples that wait for a row.", lambda: len(engine.waiting)),
            ("engine_faults", "Times that the engine failed.", lambda: self.desk.faults),
        ):
            Gauge(f"fastsample_{name}", words, registry=self.registry).set_function(value)
        trusted = [Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))] if hosts else []
        self.app = Starlette(
            routes=[
                Route("/", self.page),
                Route("/healthz", self.health),
                Route("/metrics", self.metrics),
                Route("/v1/models", self.models),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/completions", self.complete, methods=["POST"]),
            ],
            middleware=trusted,
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(self.desk.close)

    def _over(self, asked: Asked, result: Result | None) -> None:
        if result is not None:
            self.tokens.inc(result.tokens)
            self.saved.inc(max(0, result.budget_tokens - result.tokens))

    async def page(self, request: Request) -> Response:
        """The live page."""
        return FileResponse(PAGE, media_type="text/html", headers=SAFE)

    async def health(self, request: Request) -> Response:
        """200 while requests can be taken."""
        return JSONResponse({"status": "ok" if self.desk.is_well else "ending"}, 200 if self.desk.is_well else 503)

    async def metrics(self, request: Request) -> Response:
        """Counters, in the form of Prometheus."""
        refusal = self._refusal(request)
        return refusal or Response(generate_latest(self.registry), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        """The one model."""
        one = {"id": self.model, "object": "model", "created": self.since, "owned_by": "fastsample"}
        return self._refusal(request) or JSONResponse({"object": "list", "data": [one]})

    async def chat(self, request: Request) -> Response:
        """/v1/chat/completions"""
        return await self._serve(request, is_chat=True)

    async def complete(self, request: Request) -> Response:
        """/v1/completions"""
        return await self._serve(request, is_chat=False)

    def _refusal(self, request: Request) -> Response | None:
        if self.key is None:
            return None
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.encode(), self.key.encode()):
            return None
        return self._error(AskedError("the API key is missing or wrong; send it as a bearer token", 401))

    def _error(self, error: AskedError) -> Response:
        self.requests.labels(error.status).inc()
        headers = {"retry-after": "1"} if error.status in (429, 503) else {}
        return JSONResponse(_body_of(error), error.status, headers)

    async def _serve(self, request: Request, *, is_chat: bool) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        told: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(kind: str, said: Any) -> None:
            with suppress(RuntimeError):  # the loop has ended before the desk
                loop.call_soon_threadsafe(told.put_nowait, (kind, said))

        try:
            body = await self._body(request)
            asked = read(body, self.model, self.engine.traits, self.limits, is_chat=is_chat)
            job = self.desk.ask(asked, tell)
        except AskedError as error:
            return self._error(error)
        except ClientDisconnect:
            return Response(status_code=499)
        kind, said = await self._next(request, job, told)
        if kind == "error":
            return self._error(said)
        self.requests.labels(200).inc()
        if not asked.is_stream:
            while kind != "result":
                kind, said = await self._next(request, job, told)
                if kind == "error":
                    return self._error(said)
            return JSONResponse(whole(asked, said, self.desk.spelling))
        lines = self._lines(job, told, (kind, said))
        return StreamingResponse(lines, media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def _body(self, request: Request) -> Any:
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise AskedError("the body must be JSON, and content-type must say so: application/json", 415)
        data = b""
        async for part in request.stream():
            data += part
            if len(data) > self.limits.body_bytes:
                raise AskedError(f"the body may have {self.limits.body_bytes:,} bytes; send less", 413)
        try:
            return json.loads(data, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise AskedError("the body must be JSON") from None

    async def _next(self, request: Request, job: Job, told: asyncio.Queue[tuple[str, Any]]) -> tuple[str, Any]:
        """What is told next; where the client is gone, its rows are given up."""
        try:
            while True:
                with suppress(asyncio.TimeoutError):
                    return await asyncio.wait_for(told.get(), LOOK)
                if await request.is_disconnected():
                    self.desk.drop(job)
        except asyncio.CancelledError:
            self.desk.drop(job)
            raise

    async def _lines(
        self, job: Job, told: asyncio.Queue[tuple[str, Any]], first: tuple[str, Any]
    ) -> AsyncIterator[bytes]:
        kind, said = first
        try:
            for event in job.stream.begin():
                yield _line(event)
            while kind == "chunks":
                for event in said:
                    yield _line(event)
                kind, said = await told.get()
            for event in job.stream.end(said) if kind == "result" else [_body_of(said)]:
                yield _line(event)
        finally:
            self.desk.drop(job)  # where it is over, nothing happens
        yield b"data: [DONE]\n\n"


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _line(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n\n"


def _body_of(error: AskedError) -> dict[str, Any]:
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {"error": {"message": str(error), "type": kind, "param": error.name, "code": error.status}}
