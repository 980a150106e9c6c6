"""What is particular to llama.cpp, SGLang and vLLM with our draw, over a server that plays them."""

from __future__ import annotations

import time

import pytest
from hostile import Hostile, whole
from over_http import over, request

from fastsample.engines.openai.engine import ServerEngine
from fastsample.engines.openai.servers import ServerError


def test_a_vllm_server_with_our_draw():
    """It is found by asking, told seed and stream instead of its own parameters, and is what all servers must be."""
    with Hostile(owner="vllm", has_draw=True) as server, over(server) as engine:
        assert (engine.traits.draws, server.asked) == ("fastsample", [])
        engine.submit([request(temperature=0.8, top_p=0.9, top_k=5, seed=7, stream=11)])
        engine.run()
        (body,) = server.asked
        assert body["vllm_xargs"] == {
            "fs_temperature": 0.8, "fs_top_k": 5, "fs_top_p": 0.9, "fs_min_p": 0.0, "fs_seed": 7, "fs_stream": 11
        }  # fmt: skip
        assert (body["temperature"], body["top_p"], body["top_k"]) == (0, 1, -1)
        assert "seed" not in body
        with Hostile(owner="vllm") as other:
            with over(other) as plain:
                assert plain.traits.draws == "free"
                plain.submit([request(temperature=0.8)])
                plain.run()
            assert (other.asked[0]["temperature"], "vllm_xargs" in other.asked[0]) == (0.8, False)
            with pytest.raises(ServerError, match="FastDraw in some of them only; load it into all, or none"):
                ServerEngine([server.url, other.url])


def test_groups_where_equal_prompts_are_read_again():
    """llama.cpp: one request of n samples for equal ones; it is closed when the last of them is cancelled."""
    with Hostile(pause=0.01, length=60, owner="llamacpp") as server, over(server, slots=8) as engine:
        assert engine.traits.cancels == "group"
        samples = engine.submit([request(temperature=t, max_new_tokens=300) for t in (0.5, 0.7) * 4])
        while min(len(s.tokens) for s in samples) < 2:
            engine.step()
        assert sorted((b["temperature"], b["n"]) for b in server.asked) == [(0.5, 4), (0.7, 4)]
        assert server.asked[0]["top_k"] == 0  # its own default is another one
        engine.cancel(samples[:6])
        assert server.open == 2
        engine.cancel(samples[6:7])
        deadline = time.monotonic() + 3
        while server.open > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.open == 1
        engine.run()
        assert samples[7].finish == "eos"
        assert whole(samples[7].text, 60) is not None


def test_sglang_is_told_what_it_can_stop():
    """What is cancelled, cut off or closed with the engine is named at /abort_request; what ended by itself is not.

    Over a made-up server alone: no SGLang has run here.
    """

    def fault(body, number):
        return "cut" if number == 0 else "503" if number == 1 else None

    with Hostile(fault, pause=0.01, length=30, owner="sglang") as server, over(server) as engine:
        (first,) = engine.submit([request(max_new_tokens=40)])
        engine.run()
        names = [body["rid"] for body in server.asked]
        assert (first.finish, len(set(names))) == ("eos", 3)
        samples = engine.submit([request(max_new_tokens=40) for _ in range(4)])
        while min(len(s.tokens) for s in samples) < 2:
            engine.step()
        engine.cancel(samples[:2])
        engine.run()
        (last,) = engine.submit([request(max_new_tokens=40)])
        while not last.tokens:
            engine.step()
    named = {body["rid"] for body in server.asked[3:]}
    assert len(named) == 5
    assert server.aborted[0] == names[0]
    assert set(server.aborted[1:]) < named
    assert len(server.aborted) == 1 + 2 + 1
    assert server.aborted[-1] == server.asked[-1]["rid"]


def test_groups_begin_again_without_those_that_ended():
    """After a cut, only what is missing is asked for."""
    with Hostile(lambda _, number: "cut" if number < 3 else None, owner="llamacpp") as server, over(server) as engine:
        samples = engine.submit([request() for _ in range(5)])
        engine.run()
        assert None not in [whole(s.text) for s in samples]
        assert [b["n"] for b in server.asked] == [5] * 4
