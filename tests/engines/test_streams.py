"""Connections of our own to servers: bodies in every framing, cut anywhere; certificates, proxies, what is no HTTP."""

from __future__ import annotations

import asyncio
import http.client
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest
from hostile import Hostile, whole

from fastsample.engines.base import Request
from fastsample.engines.openai.chat import ChatTokenizer
from fastsample.engines.openai.engine import ServerEngine
from fastsample.engines.openai.framing import LONGEST_SIZE, Body
from fastsample.engines.openai.pool import Patience
from fastsample.engines.openai.servers import Server
from fastsample.engines.openai.streams import Direct, NoConnectionError, SilentError, Through, client_of, is_direct
from fastsample.engines.openai.wire import BrokenError

CHUNKED = {"transfer-encoding": "chunked"}
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in (*PROXIES, *map(str.lower, PROXIES)):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        (CHUNKED, b"5\r\nhello\r\n006 ; a=b\r\n world\r\n0\r\nx: y\r\n\r\n"),
        (CHUNKED, b"B;\r\nhello world\r\n0\r\n\r\n"),
        ({"content-length": "11"}, b"hello world and more"),
        ({}, b"hello world"),
    ],
)
def test_a_body_in_any_pieces(headers, sent):
    """Cut at any two bytes, it is the same."""
    for first in range(len(sent) + 1):
        for second in range(first, len(sent) + 1):
            body = Body(headers)
            found = body.feed(sent[:first]) + body.feed(sent[first:second]) + body.feed(sent[second:])
            body.end()
            assert (found, body.is_done) == (b"hello world", True)


@pytest.mark.parametrize(
    "sent",
    [
        b"5\r\nhello!\r\n",
        b"\r\n",
        b"-5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5 5\r\n",
        b"f" * 16 + b"\r\n",
        b"1" * 2000,
    ],
)
def test_what_is_no_chunk(sent):
    """It breaks, at once or at the end of the connection; a size of any length is not waited for."""
    body = Body(CHUNKED)
    with pytest.raises(BrokenError, match="a chunk"):
        body.feed(sent)
    assert len(body._rest) <= LONGEST_SIZE


def test_what_is_no_body():
    """Codings that were not asked for, a length that is none, an end before the end."""
    for headers in (
        {"transfer-encoding": "gzip, chunked"}, {"content-encoding": "br"}, {"content-length": "-1"},
        {"content-length": "\u0663"},
    ):  # fmt: skip
        with pytest.raises(BrokenError):
            Body(headers)
    for headers, sent in ((CHUNKED, b"5\r\nhel"), (CHUNKED, b"5\r\nhello\r\n"), ({"content-length": "9"}, b"hello")):
        body = Body(headers)
        body.feed(sent)
        with pytest.raises(BrokenError, match="closed in the middle"):
            body.end()


@contextmanager
def saying(*parts, context=None):
    """A server that answers every connection with these bytes, a number being seconds of silence; its URL, requests."""
    listening, asked = socket.create_server(("127.0.0.1", 0)), []

    def answer(connection):
        try:
            with context.wrap_socket(connection, server_side=True) if context else connection as talk:
                asked.append(talk.recv(1 << 16))
                for part in parts:
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


def read(url, idle=2.0, connect=2.0, key=None):
    """(status, headers, body) by a connection of our own."""

    async def ask():
        body = bytearray()
        async with Direct(Server(url, key=key), connect, idle).post(url + "/v1/x", b"{}") as answer:
            await answer.each(lambda data: body.extend(data) or False)
            return answer.status, answer.headers, bytes(body)

    return asyncio.run(ask())


def test_what_is_sent():
    """One whole request, which any server of HTTP/1.1 reads, and no connection that would be used again."""
    with saying(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX: 1\r\nx: 2\r\ncontent-le", b"ngth: 2\r\n\r\nok"
    ) as (url, asked):
        status, headers, body = read(url, key="sk-secret")
    assert (status, headers["x"], body) == (200, "1, 2", b"ok")
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
        ((), BrokenError, "closed before an answer came"),
        (
            (b"HTTP/1.1 200 OK\r\n" + b"transfer-encoding: chunked\r\n\r\n5\r\nhel",),
            BrokenError,
            "closed in the middle",
        ),
        ((b"HTTP/1.1 200 OK\r\n\r\nhel", 5.0), SilentError, "^$"),
        ((5.0,), SilentError, "^$"),
    ],
)
def test_what_is_no_answer(parts, error, words):
    """Each is told as what it is, and the connection is closed."""
    with saying(*parts) as (url, _), pytest.raises(error, match=words):
        read(url, idle=0.3)


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


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes a certificate, is not installed")
def test_a_certificate(tmp_path, monkeypatch):
    """One that nobody vouches for is refused; named in SSL_CERT_FILE it is taken, for its own host alone."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2", "-nodes"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-keyout", key, "-out", certificate, *subject]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with saying(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", context=context) as (url, asked):
        with pytest.raises(NoConnectionError, match=r"(?i)certificate"):
            read(url)
        assert asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert read(url)[2] == b"ok"
        with pytest.raises(NoConnectionError, match=r"(?i)certificate"):
            read(url.replace("localhost", "127.0.0.1"))


def test_where_a_proxy_stands_between(monkeypatch):
    """httpx is asked then, which knows them; not for what the environment excepts."""
    assert is_direct("http://a:8000")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    assert is_direct("http://a:8000")
    assert not is_direct("https://a")
    monkeypatch.setenv("ALL_PROXY", "http://proxy:1")
    assert not is_direct("http://a:8000")
    monkeypatch.setenv("NO_PROXY", "a,127.0.0.1")
    assert is_direct("http://a:8000")
    assert not is_direct("http://b:8000")
    assert not is_direct("http://a:8000/ä")
    assert isinstance(client_of(Server("http://b:8000"), 1, 1), Through)
    assert isinstance(client_of(Server("http://a:8000"), 1, 1), Direct)


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
