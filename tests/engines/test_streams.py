"""What is sent to servers and read from them: certificates, proxies, redirects, hang-ups, and what is no HTTP."""

from __future__ import annotations

import asyncio
import http.client
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hostile import Hostile, whole

from fastsample.engines.base import Request
from fastsample.engines.openai.chat import ChatTokenizer
from fastsample.engines.openai.engine import ServerEngine
from fastsample.engines.openai.pool import Patience
from fastsample.engines.openai.servers import Server, ServerError
from fastsample.engines.openai.streams import Client, NoConnectionError, SilentError, proxy_of
from fastsample.engines.openai.wire import BrokenError

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in (*PROXIES, *map(str.lower, PROXIES)):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def saying(*parts, context=None):
    """A server that answers every connection with these bytes, a number being seconds of silence; its URL, requests."""
    listening, asked = socket.create_server(("127.0.0.1", 0)), []

    def answer(connection):
        try:
            with context.wrap_socket(connection, server_side=True) if context else connection as talk:
                asked.append(talk.recv(1 << 16))
                while asked[-1].startswith(b"POST") and not asked[-1].endswith(b"}"):
                    asked[-1] += talk.recv(1 << 16)
                for part in parts[0] if isinstance(parts[0] if parts else b"", Iterator) else parts:
                    time.sleep(part) if isinstance(part, float) else talk.sendall(part)
        except OSError:
            pass

    def accept():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http{'s' if context else ''}://localhost:{listening.getsockname()[1]}", asked
    finally:
        listening.close()


def read(url, idle=2.0, connect=2.0, key=None, enough=1 << 30):
    """(status, headers, body) of a request, read until so many bytes of the body have come."""

    async def ask():
        client, body = Client(Server(url, key=key), connect, idle), bytearray()

        def take(data):
            body.extend(data)
            return len(body) >= enough

        try:
            async with client.post("/v1/x", {}) as answer:
                await answer.each(take)
                return answer.status, answer.headers, bytes(body)
        finally:
            await client.close()

    return asyncio.run(ask())


def test_what_is_sent():
    """One whole request, which any server of HTTP/1.1 reads, and no connection that would be used again."""
    parts = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-One: 1\r\ncontent-le", b"ngth: 2\r\n\r\nok"
    with saying(*parts) as (url, asked):
        status, headers, body = read(url, key="sk-secret")
    assert (status, headers["x-one"], body) == (200, "1", b"ok")
    line, *lines = asked[0].decode().split("\r\n")
    assert line == "POST /v1/x HTTP/1.1"
    sent = dict(one.lower().split(": ", 1) for one in lines if ": " in one)
    assert (sent["host"], sent["content-length"], sent["connection"]) == (url.removeprefix("http://"), "2", "close")
    assert (sent["authorization"], sent["accept-encoding"]) == ("bearer sk-secret", "identity")
    assert asked[0].endswith(b"\r\n\r\n{}")


@pytest.mark.parametrize(
    ("parts", "error", "words"),
    [
        ((b"SSH-2.0-OpenSSH\r\n\r\n",), BrokenError, "no HTTP"),
        ((b"HTTP/1.1 200 OK\r\nx: " + b"y" * (1 << 17),), BrokenError, "no HTTP"),
        ((), BrokenError, "isconnected"),
        ((CHUNKED + b"5\r\nhel",), BrokenError, "not completed"),
        ((CHUNKED + b"5\r\nhello\r\n",), BrokenError, "not completed"),
        ((CHUNKED + b"5\r\nhello\r\n", 0.1, b"no size\r\n", 5.0), (BrokenError, SilentError), "^$|no size"),
        ((CHUNKED + b"5\r\nhello, hello\r\n", 5.0), (BrokenError, SilentError), "^$|no HTTP|hello"),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello",), BrokenError, "not completed"),
        ((b"HTTP/1.1 200 OK\r\n\r\nhel", 5.0), SilentError, "^$"),
        ((5.0,), SilentError, "^$"),
    ],
)
def test_what_is_no_answer(parts, error, words):
    """Each is told as what it is."""
    with saying(*parts) as (url, _), pytest.raises(error, match=words):
        read(url, connect=2.0, idle=0.3)


def test_no_connection():
    """Nobody listens, or nobody takes it."""
    with pytest.raises(NoConnectionError, match=r"[Cc]onnect"):
        read("http://127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(8)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        with pytest.raises(NoConnectionError, match=r"none within 0\.3 s"):
            read(f"http://127.0.0.1:{port}", connect=0.3)
        for one in waiting:
            one.close()


def test_a_request_that_is_not_read():
    """A server that takes a connection and reads nothing of a long prompt is silent, too."""

    async def ask(url):
        client = Client(Server(url), 2, 0.3)
        try:
            async with client.post("/v1/x", {"prompt": "x" * (32 << 20)}):
                raise AssertionError("an answer came")
        finally:
            await client.close()

    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(SilentError):
        asyncio.run(asyncio.wait_for(ask(f"http://127.0.0.1:{deaf.getsockname()[1]}"), 10))


@pytest.fixture
def certified(tmp_path):
    """(a server's context, the file of its certificate, which nobody vouches for)"""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes a certificate, is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2", "-nodes"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-keyout", key, "-out", certificate, *subject]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


def test_a_certificate(certified, monkeypatch):
    """One that nobody vouches for is refused; named in SSL_CERT_FILE it is taken, for its own host alone."""
    context, certificate = certified
    with saying(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", context=context) as (url, asked):
        with pytest.raises(NoConnectionError, match=r"(?i)certificate"):
            read(url)
        assert asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert read(url)[2] == b"ok"
        with pytest.raises(NoConnectionError, match=r"(?i)certificate"):
            read(url.replace("localhost", "127.0.0.1"))
        with pytest.raises(ServerError, match=r"cannot be trusted .*; name it in SSL_CERT_FILE"):
            ServerEngine([url.replace("localhost", "127.0.0.1")])


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_a_hang_up_is_heard_at_once(is_encrypted, certified, monkeypatch):
    """A server that would write for ever cannot write on, while the client itself lives on."""
    context, certificate = certified
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    written, chunk = [], b"5\r\nhello\r\n"

    def endless():
        yield CHUNKED
        while True:
            written.append(time.monotonic())
            yield chunk
            yield 0.005

    with saying(endless(), context=context if is_encrypted else None) as (url, _):

        async def hang_up():
            client = Client(Server(url), 2, 2)
            async with client.post("/v1/x", {}) as answer:
                await answer.each(lambda data: True)
            left = time.monotonic()
            await asyncio.sleep(1)
            await client.close()
            return left

        left = asyncio.run(hang_up())
    assert written[0] < left
    assert written[-1] < left + 0.5


def test_a_redirect_is_not_followed():
    """It is an answer like any other: what it names is asked for nothing, and gets no key."""
    with saying(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok") as (other, asked):
        sent = f"HTTP/1.1 307 X\r\nlocation: {other}/v1/x\r\ncontent-length: 0\r\n\r\n".encode()
        with saying(sent) as (url, _):
            assert read(url, key="sk-secret")[0] == 307
            with pytest.raises(ServerError, match="answered with 307 and no list"):
                ServerEngine([Server(url, key="sk-secret")])
        assert asked == []


def test_no_other_passwords(tmp_path, monkeypatch):
    """What ~/.netrc holds is for other programs, with a key and without."""
    (tmp_path / "netrc").write_text("machine localhost login me password hush\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with saying(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok") as (url, asked):
        read(url, key="sk-secret")
        read(url)
    assert b"authorization: bearer sk-secret" in asked[0].lower()
    assert b"authorization" not in asked[1].lower()


def test_without_aiohttp(monkeypatch):
    """A sentence with the remedy, before anything is begun."""
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    threads = threading.active_count()
    with pytest.raises(ModuleNotFoundError, match="servers are reached by aiohttp; pip install aiohttp"):
        ServerEngine(["http://127.0.0.1:9"])
    assert threading.active_count() == threads


def test_which_proxy(monkeypatch):
    """That of the environment for the URL's scheme, or for all of them; none for what the environment excepts."""
    assert proxy_of("http://a:8000") is None
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    assert proxy_of("http://a:8000") is None
    assert proxy_of("https://a") == "http://proxy:1"
    monkeypatch.setenv("ALL_PROXY", "other:2")
    assert proxy_of("http://a:8000") == "http://other:2"
    monkeypatch.setenv("NO_PROXY", "a,127.0.0.1,.inside:80")
    for url in ("http://a:8000", "https://a", "http://127.0.0.1:1", "http://x.a"):
        assert proxy_of(url) is None
    assert proxy_of("http://b:8000") == proxy_of("http://x.inside:81") == "http://other:2"
    assert proxy_of("http://x.inside:80") is None
    monkeypatch.setenv("ALL_PROXY", "socks5://me:hush@proxy:1")
    with pytest.raises(ServerError, match="one of socks5 for http://b:8000; name another one") as caught:
        ServerEngine(["http://b:8000"])
    assert "hush" not in str(caught.value)


def test_through_a_proxy(monkeypatch):
    """A sample of a server that only its proxy knows: the proxy is sent the whole URL."""
    tokenizer = ChatTokenizer()
    prompt = tokenizer(tokenizer.apply_chat_template([{"role": "user", "content": "2 + 2?"}]))["input_ids"]
    with Hostile() as proxy:  # it answers by the end of the path, whatever the host
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with ServerEngine(["http://nowhere.invalid:8000"], patience=Patience(retries=0)) as engine:
            (sample,) = engine.submit([Request(tuple(prompt), max_new_tokens=20)])
            engine.run()
        assert (sample.error, whole(sample.text)) == (None, 0)
        assert proxy.headers[0]["host"] == "nowhere.invalid:8000"


def test_a_proxy_hears_no_key(monkeypatch):
    """It is asked for a connection to an encrypted server, with its own password alone, which no error repeats."""
    with saying(b"HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n") as (proxy, asked):
        monkeypatch.setenv("HTTPS_PROXY", proxy.replace("//", "//me:hush@"))
        with pytest.raises(NoConnectionError, match=r"the proxy answered 407: No$"):
            read("https://nowhere.invalid", key="sk-secret")
    assert asked[0].startswith(b"CONNECT nowhere.invalid:443 ")
    assert b"sk-secret" not in asked[0]
    assert b"proxy-authorization: basic bwu6ahvzaa==" in asked[0].lower()


def test_the_standard_library_agrees():
    """Its client reads the same bodies out of the same answers."""
    for head, body in (
        ("transfer-encoding: chunked", b"3\r\nabc\r\n10;x\r\n0123456789abcdef\r\n0\r\n\r\n"),
        ("content-length: 4", b"abcd"),
        ("connection: close", b"abc\r\n\r\n"),
    ):
        sent = f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + body
        with saying(sent) as (url, _):
            theirs = http.client.HTTPConnection(url.removeprefix("http://"))
            theirs.request("POST", "/v1/x", b"{}")
            assert read(url)[2] == theirs.getresponse().read()
            theirs.close()
