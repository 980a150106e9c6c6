"""Samples over HTTP: what is asked, what is cancelled, what is tried again, against a server that misbehaves."""

from __future__ import annotations

import random
import time

import pytest
from hostile import LENGTH, MODEL, Hostile, whole
from over_http import QUICK, over, prompt_of, request

from fastsample.engines.base import UNTOLD
from fastsample.engines.openai.engine import ServerEngine
from fastsample.engines.openai.pool import Patience, retry_after
from fastsample.engines.openai.servers import Server, ServerError
from fastsample.engines.openai.wire import BrokenError, Events

FAULTS = ("429", "503", "cut", "half", "hang", "error inside", "error later", "html")
HARMLESS = ("twice", "lies high", "lies low", "ends twice", "drip")


def test_a_sample_is_one_streamed_chat():
    """Its words, its tokens by number, its end; the prompt is sent as messages; the count is the server's."""
    with Hostile() as server, over(server) as engine:
        (sample,) = engine.submit([request(temperature=0.5, stop=("x",), top_p=0.9)])
        pieces = []
        engine.on_piece = lambda s, piece: pieces.append(piece)
        assert engine.run() == [sample]
        assert (whole(sample.text), sample.finish, sample.error) == (0, "eos", None)
        assert sample.tokens == [UNTOLD] * (LENGTH + 1)  # its end is a token too
        assert sample.token_ids == ()
        assert "".join(pieces) == sample.text
        assert (sample.prompt_tokens, engine.prefill_tokens, engine.wasted_tokens) == (7, 7, 0)
        (body,) = server.asked
        assert body == {
            "model": MODEL, "messages": [{"role": "user", "content": "2 + 2?"}], "max_tokens": 20, "temperature": 0.5,
            "top_p": 0.9, "stop": ["x"], "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        assert server.headers[0]["connection"] == "close"


@pytest.mark.parametrize("hears", [None, lambda *_: None])
def test_a_limit_is_the_end(hears):
    """Of the server's, and of ours where it writes on, whether somebody listens or not."""
    for fault in (None, "endless"):
        with Hostile(lambda *_, fault=fault: fault) as server, over(server) as engine:
            engine.on_piece = hears
            (sample,) = engine.submit([request(max_new_tokens=4)])
            engine.run()
            assert (sample.finish, len(sample.tokens)) == ("length", 4)
            deadline = time.monotonic() + 3
            while server.open and time.monotonic() < deadline:
                time.sleep(0.01)
            assert server.open == 0


def test_cancelling_closes_the_stream():
    """In the middle of a sentence: the server writes no further word, and nothing more is told of the sample."""
    with Hostile(pause=0.02, length=500) as server, over(server) as engine:
        samples = engine.submit([request(max_new_tokens=1000) for _ in range(8)])
        while min(len(s.tokens) for s in samples) < 3:
            engine.step()
        engine.cancel(samples[1:])
        assert [s.finish for s in samples] == [None, *["cancelled"] * 7]
        deadline = time.monotonic() + 3
        while server.open > 1 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert server.open == 1
        texts, written = [s.text for s in samples[1:]], sum(len(s.tokens) for s in samples[1:])
        while len(samples[0].tokens) < 20:
            engine.step()
        assert [s.text for s in samples[1:]] == texts
        assert server.written <= written + len(samples[0].tokens) + 8 * 3  # what was under way


def test_what_waits_was_never_asked_for():
    """No more than `slots` are open at once, and a waiting one is cancelled for nothing."""
    with Hostile(pause=0.005) as server, over(server, slots=3) as engine:
        samples = engine.submit([request() for _ in range(12)])
        assert (len(engine.running), len(engine.waiting)) == (3, 9)
        engine.cancel(samples[9:])
        assert len(engine.run()) == 9
        assert (server.most_open, len(server.asked)) == (3, 9)


def test_a_server_whose_events_are_no_tokens():
    """Its count never fits: after a few tries it is believed, and nothing fails."""
    with Hostile(lambda *_: "lies low") as server, over(server, slots=1) as engine:
        samples = engine.submit([request() for _ in range(4)])
        engine.run()
        assert None not in [whole(s.text) for s in samples]
        assert len(server.asked) == 4 + 4


@pytest.mark.parametrize("fault", [*FAULTS, *HARMLESS])
def test_every_fault_alone(fault):
    """Twice, then no more: every sample is whole in the end, and no word is another's."""
    with Hostile(lambda _, number: fault if 0 < number < 7 else None) as server, over(server) as engine:
        engine.submit([request()])
        engine.run()
        samples = engine.submit([request() for _ in range(4)])
        assert len(engine.run()) == 4
        assert server.faults[fault] == (4 if fault in ("lies high", "ends twice", "drip") else 6)
        serials = [whole(s.text) for s in samples]
        assert None not in serials, [s.text for s in samples]
        assert len(set(serials)) == 4
        assert {len(s.tokens) for s in samples} <= {LENGTH, LENGTH + 1}


def hail(injected, slots, seed=0):
    """(engine, samples): samples over two servers until so many faults were injected."""
    choose = random.Random(seed)

    def fault(*_):
        is_faulty = choose.random() < 0.6
        return choose.choice([f for f in (*FAULTS, *HARMLESS) if f not in ("hang", "drip")]) if is_faulty else None

    a, b = Hostile(fault), Hostile(fault)
    samples = []
    with a, b, over(a, b, slots=slots) as engine:
        engine.patience = QUICK
        while a.faults.total() + b.faults.total() < injected:
            samples += engine.submit([request(prompt=prompt_of(str(len(samples)))) for _ in range(slots)])
            engine.run()
        return a.faults + b.faults, engine.wasted_tokens, samples, (a.asked, b.asked)


def check_hail(injected, slots):
    faults, wasted, samples, asked = hail(injected, slots)
    assert faults.total() >= injected
    assert {s.finish for s in samples} == {"eos"}
    assert None not in [whole(s.text) for s in samples]
    assert wasted > 0
    assert min(map(len, asked)) > len(samples) / 4  # both servers were used
    return faults, len(samples)


def test_a_thousand_failures():
    """None lost, none doubled; ten thousand in the slow one."""
    check_hail(1000, 32)


@pytest.mark.slow
def test_ten_thousand_failures():
    """None lost, none doubled."""
    print(check_hail(10_000, 64))


def test_what_cannot_be_served_fails_alone():
    """A status that no other try changes ends its sample with the server's words; those beside it go on."""
    with Hostile(lambda body, _: "400" if "bad" in str(body) else None) as server, over(server) as engine:
        good, bad = engine.submit([request(), request(prompt=prompt_of("bad"))])
        engine.run()
        assert (good.finish, bad.finish) == ("eos", "failed")
        assert bad.error == f"{server.url} answered 400: no such thing"


def test_patience_ends():
    """After so many tries the sample fails, with the last reason."""
    with Hostile(lambda *_: "503") as server, over(server, patience=Patience(retries=2, again=(0.0, 0.0))) as engine:
        (sample,) = engine.submit([request()])
        engine.run()
        assert sample.error == f"{server.url} answered 503: busy; given up after 3 tries"
        assert len(server.asked) == 3


def test_a_server_that_dies_is_left_alone():
    """The others write what it began; nothing is lost."""
    with Hostile(pause=0.01) as one, Hostile(pause=0.01) as other, over(one, other) as engine:
        samples = engine.submit([request(prompt=prompt_of(str(i))) for i in range(40)])
        while min(len(one.asked), len(other.asked)) < 5:
            engine.step()
        one.__exit__()
        engine.run()
        one.__enter__()
        assert {s.finish for s in samples} == {"eos"}
        assert None not in [whole(s.text) for s in samples]


def test_a_prompt_stays_on_one_server():
    """While there is room: its samples meet its cached prefix. Many prompts are spread."""
    with Hostile() as one, Hostile() as other, over(one, other) as engine:
        engine.submit([request(prompt=prompt_of("same")) for _ in range(10)])
        engine.run()
        assert sorted([len(one.asked), len(other.asked)]) == [0, 10]
        engine.submit([request(prompt=prompt_of(str(i))) for i in range(40)])
        engine.run()
        assert min(len(one.asked), len(other.asked)) >= 8


def test_a_full_server_spills_over():
    """Ten samples of one prompt on two servers of five slots."""
    with Hostile(pause=0.02) as one, Hostile(pause=0.02) as other:
        with ServerEngine([Server(s.url, slots=5) for s in (one, other)], patience=QUICK) as engine:
            engine.submit([request() for _ in range(10)])
            assert engine.slots == 10
            engine.run()
        assert (one.most_open, other.most_open) == (5, 5)


def test_a_key_is_sent_and_never_told(monkeypatch):
    """From the environment; a server that repeats it is quoted without it."""
    monkeypatch.setenv("FASTSAMPLE_API_KEY", "sk-secret")
    with Hostile(key="sk-secret") as server, over(server) as engine:
        (sample,) = engine.submit([request()])
        engine.run()
        assert sample.finish == "eos"
        assert "sk-secret" not in repr(Server(server.url)) + repr(engine.traits) + repr(vars(engine))
    with Hostile(key="other") as server, pytest.raises(ServerError, match="the key that it was given is a wrong one"):
        ServerEngine([server.url])
    words = Server("http://x", key="sk-secret").words("Incorrect key\nsk-secret given")
    assert words == "Incorrect key *** given"


def test_what_is_no_server(monkeypatch):
    """One sentence each, before anything is asked."""
    with pytest.raises(ServerError, match=r"no server answers at http://127.0.0.1:9 "):
        ServerEngine(["http://127.0.0.1:9"])
    with pytest.raises(ServerError, match="must be a URL such as http"):
        Server("localhost:8000")
    with pytest.raises(ServerError, match="must hold no password") as caught:
        Server("http://me:hush@host")
    assert "hush" not in str(caught.value)
    with Hostile(models=("a", "b")) as server:
        with pytest.raises(ServerError, match=r"serves a, b; name one"):
            ServerEngine([server.url])
        with pytest.raises(ServerError, match=r"does not serve 'c'; it serves a, b"):
            ServerEngine([Server(server.url, model="c")])
        ServerEngine([Server(server.url + "/v1/", model="b")]).close()
        with (
            Hostile(models=("c",)) as other,
            pytest.raises(ServerError, match="got a by openai and c by"),
        ):
            ServerEngine([Server(server.url, model="a"), Server(other.url)])
    with Hostile() as server, pytest.raises(ServerError, match="is no OpenAI-compatible server"):
        ServerEngine([server.url + "/other"])
    with Hostile(key="k") as server, pytest.raises(ServerError, match="it asks for a key"):
        ServerEngine([server.url])


def test_what_a_server_is_not_asked_for():
    """Refused by name before the first request."""
    with Hostile() as server, over(server) as engine:
        for changes, words in (
            ({"top_k": 5}, "top_k and min_p are no fields of OpenAI's"),
            ({"logits_processor": lambda ids, scores: scores}, "runs in this process only"),
            ({"temperature": float("nan")}, "temperature must be a finite number"),
            ({"prompt": (1, 2, 3)}, "tokenizer=engine.tokenizer"),
            ({"park": True}, "keeps no paths"),
            ({"top_logprobs": 5}, "are told by a LocalEngine alone"),
            ({"stop": ("",)}, "stop must be a tuple"),
        ):
            with pytest.raises(ValueError, match=words):
                engine.submit([request(), request(**changes)])
        assert (server.asked, engine.is_idle) == ([], True)


def test_closing_twice_and_afterwards():
    """Ends what is open; a step afterwards is refused."""
    with Hostile(pause=0.05, length=100) as server:
        engine = ServerEngine([server.url], patience=QUICK)
        (sample,) = engine.submit([request(max_new_tokens=200)])
        engine.step()
        engine.close()
        engine.close()
        assert sample.finish == "cancelled"
        assert not engine._thread.is_alive()


def test_retry_after():
    """Seconds, a date, and what is neither."""
    assert retry_after("3") == 3
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert (retry_after(None), retry_after("soon"), retry_after("nan")) == (None, None, None)


def test_events_in_any_pieces():
    """Cut at any byte, they say the same; half an event and a line without end are told."""
    stream = 'data: {"a": "ä"}\n\n: ping\n\ndata: [1]\r\n\r\ndata: [DONE]\n\n'.encode()
    for cut in range(len(stream)):
        events = Events()
        assert events.feed(stream[:cut]) + events.feed(stream[cut:]) == [{"a": "ä"}, [1]]
        assert events.is_done
    with pytest.raises(BrokenError):
        Events().feed(b"data: {\n")
    with pytest.raises(BrokenError):
        Events().feed(b"x" * (2 << 20))
