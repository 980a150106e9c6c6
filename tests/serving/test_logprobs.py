"""Log-probabilities over HTTP: OpenAI's fields in both routes, whole and streamed, against the engine's own."""

from __future__ import annotations

import json
import math

import bigram
import pytest
from http_client import httpx
from served import local, serving

from fastsample import solve
from fastsample.serving.likeliest import Spelling, shown

ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "2 + 2?"}], "max_tokens": 8, "seed": 3}
PROMPT = {"model": "tiny", "prompt": "<|assistant|>", "max_tokens": 4, "seed": 3}


def post(served, body, path="/v1/chat/completions"):
    answer = httpx.post(served.url + path, json=body, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer


def events(answer):
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


def test_a_chat_s_log_probabilities(served):
    """The drawn token's, the likeliest beside it in order, and no end of text among them: seven to three."""
    body = post(served, ASKED | {"n": 6, "logprobs": True, "top_logprobs": 2, "temperature": 0.5}).json()
    for choice in body["choices"]:
        (token,) = choice["logprobs"]["content"]
        assert token["token"] == choice["message"]["content"]
        assert bytes(token["bytes"]).decode() == token["token"]
        tops = {top["token"]: top["logprob"] for top in token["top_logprobs"]}
        assert list(tops) == ["4", "5"]
        assert tops == pytest.approx({"4": math.log(0.7), "5": math.log(0.3)}, abs=1e-3)
        assert token["logprob"] == pytest.approx(tops[token["token"]], abs=1e-5)
    plain = post(served, ASKED | {"n": 6, "temperature": 0.5}).json()
    assert [c["message"] for c in plain["choices"]] == [c["message"] for c in body["choices"]]
    assert all(c["logprobs"] is None for c in plain["choices"])
    (alone,) = post(served, ASKED | {"logprobs": True}).json()["choices"]
    assert alone["logprobs"]["content"][0]["top_logprobs"] == []


def test_a_completion_s_log_probabilities(served):
    """The older form: lists side by side, a dictionary a token, and where each begins."""
    (choice,) = post(served, PROMPT | {"logprobs": 2}, "/v1/completions").json()["choices"]
    told = choice["logprobs"]
    assert "".join(told["tokens"]) == choice["text"]
    assert told["text_offset"] == [0]
    assert set(told["top_logprobs"][0]) == {"4", "5"}
    assert told["token_logprobs"][0] == pytest.approx(told["top_logprobs"][0][choice["text"]], abs=1e-5)


@pytest.mark.parametrize("more", [{}, {"stop": ["aaaa"]}])
def test_streamed_they_add_up_to_the_whole(endless, more):
    """Every token once and in order, also where a stop string ends the text; so do the texts of the tokens."""
    asked = ASKED | {"logprobs": True, "top_logprobs": 1, "max_tokens": 30} | more
    (choice,) = post(endless, asked).json()["choices"]
    heard = [e["choices"][0]["logprobs"] for e in events(post(endless, asked | {"stream": True}))]
    told = [token for one in heard if one is not None for token in one["content"]]
    assert told == choice["logprobs"]["content"]
    assert "".join(token["token"] for token in told) == choice["message"]["content"]
    assert len(told) == (30 if not more else 0)
    old = {"model": "tiny", "prompt": "<|assistant|>", "max_tokens": 5, "logprobs": 1}
    heard = [e["choices"][0]["logprobs"] for e in events(post(endless, old | {"stream": True}, "/v1/completions"))]
    assert [at for one in heard if one is not None for at in one["text_offset"]] == [0, 1, 2, 3, 4]


def test_a_stop_string_is_told_as_far_as_the_text_goes():
    """Tokens that hold the stop string and nothing of the text are left out."""
    chain = {bigram.ASSISTANT: {"a": 1.0}, "a": {"b": 1.0}, "b": {"c": 1.0}, "c": {"a": 1.0}}
    with serving(*local(chain)) as served:
        asked = ASKED | {"logprobs": True, "stop": ["ca"]}
        for stream in (False, True):
            answer = post(served, asked | {"stream": stream})
            heard = events(answer) if stream else [answer.json()]
            told = [t for e in heard if (said := e["choices"][0]["logprobs"]) for t in said["content"]]
            assert [token["token"] for token in told] == ["a", "b"]


def test_the_openai_package_reads_them(served):
    """Its client makes its own objects of them."""
    openai = pytest.importorskip("openai", reason="the openai package is not installed: pip install openai")
    client = openai.OpenAI(base_url=served.url + "/v1", api_key="none")
    answer = client.chat.completions.create(**ASKED, logprobs=True, top_logprobs=2)
    token = answer.choices[0].logprobs.content[0]
    assert (token.token, len(token.top_logprobs)) == (answer.choices[0].message.content, 2)
    answer = client.completions.create(**PROMPT, logprobs=2)
    assert answer.choices[0].logprobs.tokens == [answer.choices[0].text]


def test_our_own_engine_reads_them(served):
    """A vote over our own server may ask for the certainties that `confidence` needs."""
    from fastsample.engines.openai.engine import ServerEngine

    settings = {"samples": 3, "temperatures": (1.0,), "max_new_tokens": 8}
    with ServerEngine([served.url], top_logprobs=20) as engine:
        result = solve(None, engine.tokenizer, "2 + 2?", engine=engine, **settings)
    logprobs = {round(s.means.raw_logprob, 3) for s in result.samples}
    assert logprobs <= {round(math.log(p), 3) for p in (0.7, 0.3)}


@pytest.mark.parametrize(
    ("path", "change", "words"),
    [
        ("chat/completions", {"logprobs": 3}, "logprobs must be true or false, got 3"),
        (
            "chat/completions",
            {"logprobs": True, "top_logprobs": 21},
            "top_logprobs must be a whole number from 0 to 20",
        ),
        ("chat/completions", {"top_logprobs": 2}, "top_logprobs is 2, so logprobs must be true; send both"),
        (
            "chat/completions",
            {"logprobs": True, "fastsample": {}},
            "a vote has one answer of many texts; leave them out",
        ),
        ("completions", {"logprobs": True}, "logprobs must be a whole number from 0 to 20, got True"),
        ("completions", {"top_logprobs": 1}, "top_logprobs is a field of chats; here logprobs is the number"),
    ],
)
def test_bad_fields(served, path, change, words):
    """400, and one sentence."""
    body = (PROMPT if path == "completions" else ASKED) | change
    answer = httpx.post(f"{served.url}/v1/{path}", json=body, timeout=20)
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["error"]["message"]


def test_a_part_of_a_character_has_no_bytes():
    """Tokens that are pieces of one character say so, and none of the others is lost."""

    class Bytes:
        """Token i is byte i."""

        def __call__(self, text, add_special_tokens=False):
            return {"input_ids": list(text.encode())}

        def decode(self, ids, **options):
            return bytes(ids).decode("utf-8", "replace")

    from fastsample.engines.base import Request, Sample
    from fastsample.token_stats import TokenStats

    tokens = list("é!".encode())
    sample = Sample(Request((1,), stop=("?",)), tokens, "é!", "stop", [TokenStats(-1.0, -math.inf, 0.0, 0.0)] * 3)
    told = shown(sample, Spelling(Bytes()))
    assert [(t["token"], t["bytes"], t["logprob"]) for t in told] == [
        ("�", None, -9999.0), ("�", None, -9999.0), ("!", [33], -9999.0)
    ]  # fmt: skip
