"""An OpenAI-compatible server that does what real ones do rarely, by order: standard library, one thread.

Sample number s of this server writes the words "s:0", "s:1" ... "s:LENGTH-1", a token each. So a text says which sample
it is and whether a word is lost or doubled.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from itertools import count
from urllib.parse import urlsplit

LENGTH = 6
MODEL = "words"


class Hostile:
    """fault: (request body, number of the request) -> the name of a fault, or None for none; see `_write`.

    serial: of a request's body -> the sample's number, where a server repeats its texts; entered again, it has its port
    """

    def __init__(
        self,
        fault=lambda body, number: None,
        *,
        pause=0.0,
        length=LENGTH,
        key=None,
        models=(MODEL,),
        owner="",
        has_draw=False,
        serial=None,
    ):
        self.fault, self.pause, self.length, self.key = fault, pause, length, key
        self.models, self.owner, self.has_draw = models, owner, has_draw
        self.serial, self.port = serial, 0
        self.faults = Counter()
        self.asked = []  # bodies
        self.headers = []
        self.aborted = []  # names of requests
        self.written = 0  # words put into a stream
        self.cut_off = 0  # streams that the client closed
        self.open = self.most_open = 0
        self._numbers, self._serials = count(), count()

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()

        async def serve():
            self.server = await asyncio.start_server(self._answer, "127.0.0.1", self.port)
            self.port = self.server.sockets[0].getsockname()[1]
            ready.set()

        self.loop.create_task(serve())
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        ready.wait()
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._shut(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()

    async def _shut(self):
        self.server.close()
        others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _answer(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *rest = head.splitlines()
            method, target, _ = line.split()
            path = urlsplit(target).path  # a proxy is sent a whole URL
            headers = dict(h.lower().split(": ", 1) for h in rest if ": " in h)
            body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
            if self.key and headers.get("authorization") != f"bearer {self.key}".lower():
                await self._say(writer, 401, {"error": {"message": f"wrong key {headers.get('authorization')}"}})
            elif (method, path) == ("GET", "/v1/models"):
                listed = [{"id": m, "owned_by": self.owner} for m in self.models]
                await self._say(writer, 200, {"object": "list", "data": listed})
            elif "fs_is_here" in body.get("vllm_xargs", ()):  # the look for our draw, which no sample comes of
                told = {"error": {"message": "fastsample draws by fs_temperature, got fs_is_here"}}
                await self._say(writer, *((400, told) if self.has_draw else (200, {"choices": []})))
            elif (method, path) == ("POST", "/abort_request"):
                self.aborted.append(body["rid"])
                await self._say(writer, 200, "")
            elif method == "POST" and path.startswith("/v1/"):
                self.asked.append(body)
                self.headers.append(headers)
                self.open += 1
                self.most_open = max(self.most_open, self.open)
                try:
                    await self._write(writer, body)
                finally:
                    self.open -= 1
            else:
                await self._say(writer, 404, {"detail": "Not Found"})
        except (ConnectionError, asyncio.IncompleteReadError):
            self.cut_off += 1
        finally:
            writer.close()

    async def _say(self, writer, status, value, headers=()):
        data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        kind = "text/html" if isinstance(value, str) else "application/json"
        lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(data)}", *headers]
        writer.write("\r\n".join([*lines, "connection: close", "", ""]).encode() + data)
        await writer.drain()

    async def _write(self, writer, body):
        fault = self.fault(body, next(self._numbers))
        self.faults[fault] += fault is not None
        if fault == "429":
            return await self._say(writer, 429, {"error": {"message": "slow down"}}, ["retry-after: 0.01"])
        if fault == "503":
            return await self._say(writer, 503, {"message": "busy"})
        if fault == "400":
            return await self._say(writer, 400, {"error": {"message": "no such thing"}})
        if fault == "html":
            return await self._say(writer, 200, "<html>a login page</html>")
        if fault == "error inside":
            return await self._say(writer, 200, {"error": {"message": "overloaded", "code": 503}})
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        is_chat = "messages" in body
        n = body.get("n", 1)
        serials = [next(self._serials) if self.serial is None else self.serial(body) for _ in range(n)]
        length = min(self.length, body["max_tokens"])

        async def send(value):
            data = f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()
            if fault == "drip":
                for i in range(len(data)):
                    writer.write(data[i : i + 1])
                    await writer.drain()
            else:
                writer.write(data)
                await writer.drain()
            if writer.transport.is_closing():
                raise ConnectionResetError
            await asyncio.sleep(self.pause)

        def choice(index, text, finish=None):
            said = {"delta": {"content": text}} if is_chat else {"text": text}
            return {"choices": [{"index": index, "finish_reason": finish} | said]}

        if is_chat:
            await send({"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]})
        for place in range(length if fault != "endless" else 10**9):
            for index, serial in enumerate(serials):
                self.written += 1
                await send(choice(index, f"{serial}:{place}ä "))
                if place == 1 and fault == "twice":
                    await send(choice(index, f"{serial}:{place}ä "))
            if place == 2:
                if fault == "cut":
                    return None
                if fault == "half":
                    writer.write(b'data: {"choices": [{"index": 0, "te')
                    return await writer.drain()
                if fault == "hang":
                    await asyncio.sleep(30)
                if fault == "error later":
                    return await send({"error": {"message": "the engine died", "code": 500}})
        for index in range(n):
            finish = "length" if length == body["max_tokens"] else "stop"
            await send(choice(index, "", finish))
            if fault == "ends twice":
                await send(choice(index, "", finish))
        told = {"lies high": 10**15, "lies low": 1}.get(fault, n * (length + (length < body["max_tokens"])))
        await send({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": told}})
        writer.write(b"data: [DONE]\n\n")
        return await writer.drain()


def whole(text, length=LENGTH):
    """The number of the sample that a text is, or None where a word of it is missing, doubled or another one's."""
    serial = text.partition(":")[0]
    return int(serial) if text == "".join(f"{serial}:{place}ä " for place in range(length)) else None
