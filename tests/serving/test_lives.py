"""Clients that hang up, too many of them, an engine that fails, the end of a server, servers behind a server."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time

import pytest
from hostile import Hostile
from http_client import httpx
from served import local, serving

from fastsample.engines.openai.engine import ServerEngine
from fastsample.engines.openai.pool import Patience

CHAT = "/v1/chat/completions"
LONG = {"model": "tiny", "messages": [{"role": "user", "content": "2?"}], "max_tokens": 4000, "n": 2}


def posted(body):
    lines = (f"POST {CHAT} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json")
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


def until(is_met, seconds=5):
    deadline = time.monotonic() + seconds
    while not is_met() and time.monotonic() < deadline:
        time.sleep(0.005)
    return is_met()


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_frees_its_rows(endless, stream):
    """In the middle of a text; the steps go on by few, and nothing of it is left."""
    engine = endless.engine
    body = json.dumps(LONG | {"stream": stream}).encode()
    with socket.create_connection(("127.0.0.1", endless.port)) as client:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        )
        client.sendall(head.encode() + b"\r\n\r\n" + body)
        assert until(lambda: len(engine.running) == 2)
        if stream:
            assert until(lambda: client.recv(1000))
    assert until(lambda: not engine.running)
    assert until(lambda: endless.service.desk.jobs == {})


def test_a_dropped_request_leaves_before_the_next_step(endless):
    """Counted in steps: once it is dropped, its rows are in no further one."""
    from fastsample.serving.asked import Limits, read

    desk, engine = endless.service.desk, endless.engine
    asked = read(LONG, "tiny", engine.traits, Limits(), is_chat=True)
    job = desk.ask(asked, lambda kind, said: None)
    assert until(lambda: len(engine.running) == 2)
    desk.drop(job)
    before = engine.steps
    assert until(lambda: not engine.running)
    assert engine.steps <= before + 1


def test_too_many_are_told(endless):
    """A bounded number; one more is told to come again, and is served once there is room."""
    desk = endless.service.desk
    desk.most, before = 3, desk.most
    clients = [socket.create_connection(("127.0.0.1", endless.port)) for _ in range(3)]
    try:
        body = json.dumps(LONG).encode()
        for client in clients:
            client.sendall(posted(body))
        assert until(lambda: len(desk.jobs) == 3)
        assert len(endless.engine.running) <= 4  # the rest waits
        refused = httpx.post(endless.url + CHAT, json=LONG)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    finally:
        for client in clients:
            client.close()
        assert until(lambda: desk.jobs == {})
        desk.most = before
    assert httpx.post(endless.url + CHAT, json=LONG | {"max_tokens": 3}).status_code == 200


def test_many_at_once(served):
    """Thirty clients of plain requests and votes over sixteen rows: each gets its own answer."""
    found = {}

    def ask(number):
        body = LONG | {"max_tokens": 8, "n": 1, "seed": number, "temperature": 0.9}
        if number % 3 == 0:
            body |= {"fastsample": {"rule": "ahead:k=2", "temperatures": [0.9], "samples": 9}}
        found[number] = httpx.post(served.url + CHAT, json=body, timeout=60).json()["choices"][0]["message"]["content"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = dict(found)
    for number in (1, 3, 29):  # alone, the same
        ask(number)
    assert found == first
    assert len(found) == 30


def test_an_engine_that_fails(served, monkeypatch):
    """Who waits is told so; the next request is served."""
    monkeypatch.setattr(served.engine, "step", lambda: (_ for _ in ()).throw(RuntimeError("no memory")))
    answer = httpx.post(served.url + CHAT, json=LONG | {"max_tokens": 8})
    assert (answer.status_code, answer.json()["error"]["message"]) == (500, "the engine failed; ask again")
    monkeypatch.undo()
    assert httpx.post(served.url + CHAT, json=LONG | {"max_tokens": 8}).status_code == 200
    assert httpx.get(served.url + "/healthz").json() == {"status": "ok"}


def test_the_end():
    """What is open ends, and the thread with it."""
    with serving(*local()) as served:
        desk = served.service.desk
        assert httpx.post(served.url + CHAT, json=LONG | {"max_tokens": 8}).status_code == 200
    assert not desk._thread.is_alive()
    assert not desk.is_well


def test_over_other_servers():
    """A server over a server: votes, streams and failures pass through."""
    bad = Hostile(lambda body, _: "400" if "bad" in str(body) else None)
    with bad as behind, ServerEngine([behind.url], patience=Patience(again=(0.0, 0.0))) as engine:
        over = serving(engine, engine.tokenizer, model="words")
        with over as served:
            body = {"model": "words", "messages": [{"role": "user", "content": "x"}], "max_tokens": 20}
            answer = httpx.post(served.url + CHAT, json=body).json()
            assert answer["choices"][0]["message"]["content"].startswith("0:0ä 0:1ä")
            assert answer["usage"]["prompt_tokens"] == 7
            bad_one = body | {"messages": [{"role": "user", "content": "bad"}]}
            failed = httpx.post(served.url + CHAT, json=bad_one)
            assert (failed.status_code, "no such thing" in failed.text) == (400, True)


def test_the_page(served):
    """One file that loads nothing from elsewhere and puts texts in as text."""
    answer = httpx.get(served.url + "/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "http://" not in answer.text.replace("http://www.w3.org", "")
    assert "innerHTML" not in answer.text


@pytest.mark.slow
def test_an_idle_connection_outlives_its_client(endless):
    """httpx keeps one for five seconds: the server must not close it at the same moment."""
    client = http.client.HTTPConnection("127.0.0.1", endless.port)
    for pause in (0, 6):
        time.sleep(pause)
        client.request("GET", "/v1/models")
        answer = client.getresponse()
        assert (answer.status, bool(answer.read())) == (200, True)
    client.close()
