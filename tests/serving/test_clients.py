"""What clients see: the openai package, plain HTTP, votes, streams, and what is refused."""

from __future__ import annotations

import json

import pytest
from http_client import httpx
from served import local, serving

CHAT = "/v1/chat/completions"
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "2 + 2?"}], "max_tokens": 8}


def post(served, body, path=CHAT, **more):
    return httpx.post(served.url + path, json=body, timeout=20, **more)


def events(answer):
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_chat(served):
    """One choice, its usage, and the engine's own text for the seed."""
    first = post(served, ASKED | {"seed": 3}).json()
    assert first["object"] == "chat.completion"
    (choice,) = first["choices"]
    assert choice["message"]["content"] in ("4", "5")
    assert choice["finish_reason"] == "stop"
    assert (first["usage"]["completion_tokens"], first["usage"]["fastsample"]["saved_tokens"]) == (2, 0)
    assert post(served, ASKED | {"seed": 3}).json()["choices"] == first["choices"]


def test_n_choices_are_the_samples_of_solve(served):
    """Seven to three, by their streams; at temperature 0 one text, n times."""
    from fastsample import solve

    body = post(served, ASKED | {"n": 40, "seed": 1, "temperature": 0.9}).json()
    texts = [c["message"]["content"] for c in body["choices"]]
    engine = served.engine
    again = solve(engine.model, engine.tokenizer, "2 + 2?", temperatures=(0.9,), samples=40, seed=1, max_new_tokens=8)
    assert texts == [s.text for s in again.samples]
    assert 20 < texts.count("4") < 36
    assert [c["index"] for c in body["choices"]] == list(range(40))
    cold = post(served, ASKED | {"n": 3, "temperature": 0}).json()
    assert [c["message"]["content"] for c in cold["choices"]] == ["4"] * 3
    assert cold["usage"]["completion_tokens"] == 2


def test_penalties_and_biases(served):
    """A bias of -100 takes the likelier answer away, from plain choices and from votes; penalties are taken."""
    four = served.engine.tokenizer.convert_tokens_to_ids("4")
    biased = ASKED | {"logit_bias": {str(four): -100}, "temperature": 0.9, "presence_penalty": 0.5}
    body = post(served, biased | {"n": 10}).json()
    assert {c["message"]["content"] for c in body["choices"]} == {"5"}
    body = post(served, biased | {"temperature": None, "fastsample": {"samples": 3}}).json()
    assert body["fastsample"]["answer"] == "5"


def test_a_vote_by_the_model_s_name(served):
    """MODEL@RULE: the elected answer's text, the votes, and what early exit saved."""
    body = post(
        served, ASKED | {"model": "tiny@ahead:k=2", "fastsample": {"temperatures": [1.0], "samples": 40}}
    ).json()
    vote = body["fastsample"]
    assert vote["answer"] == body["choices"][0]["message"]["content"]
    assert (vote["rule"], vote["status"]) == ("ahead:k=2", "easy")
    assert vote["counted"] < 30
    usage = body["usage"]
    assert usage["completion_tokens"] == vote["tokens"] == 2 * vote["counted"]
    assert usage["fastsample"]["saved_tokens"] == usage["fastsample"]["budget_tokens"] - usage["completion_tokens"] > 0
    assert "samples" not in vote
    full = post(
        served, ASKED | {"fastsample": {"rule": "majority", "temperatures": [1.0], "samples": 3, "texts": True}}
    )
    assert len(full.json()["fastsample"]["samples"]) == 3


def test_a_stream(served):
    """Chunks of every choice add up to its text; usage at the end where it is asked for."""
    answer = post(served, ASKED | {"n": 5, "seed": 2, "stream": True, "stream_options": {"include_usage": True}})
    assert answer.headers["content-type"].startswith("text/event-stream")
    texts, finishes = [""] * 5, [None] * 5
    *told, last = events(answer)
    for event in told:
        assert event["object"] == "chat.completion.chunk"
        (choice,) = event["choices"]
        texts[choice["index"]] += choice["delta"].get("content") or ""
        finishes[choice["index"]] = choice["finish_reason"] or finishes[choice["index"]]
    plain = post(served, ASKED | {"n": 5, "seed": 2}).json()
    assert texts == [c["message"]["content"] for c in plain["choices"]]
    assert finishes == ["stop"] * 5
    assert last["usage"] == plain["usage"]


def test_a_streamed_vote(served):
    """Every sample as it ends, the votes by temperature, then the verdict and the elected text."""
    vote = {"rule": "ahead:k=3", "temperatures": [0.5, 1.0], "samples": 10}
    told = events(post(served, ASKED | {"stream": True, "fastsample": vote}))
    ours = [e["fastsample"] for e in told if "fastsample" in e]
    ended = [o for o in ours if o["event"] == "finished"]
    (verdict,) = [o for o in ours if o["event"] == "verdict"]
    assert len(ended) >= verdict["counted"] >= 3
    assert sum(sum(v.values()) for v in ended[-1]["votes"].values()) == len(ended)
    text = "".join(e["choices"][0]["delta"].get("content") or "" for e in told)
    assert text == verdict["answer"]
    pieces = {o["number"] for o in ours if o["event"] == "token"}
    assert {o["sample"]["number"] for o in ended} <= pieces
    assert pieces <= {o["sample"]["number"] for o in ours if o["event"] in ("finished", "cancelled")}


def test_completions(served):
    """A text as it is, or token ids; streamed too."""
    body = {"model": "tiny", "prompt": "<|assistant|>", "max_tokens": 4, "temperature": 0}
    first = post(served, body, "/v1/completions").json()
    assert (first["object"], first["choices"][0]["text"]) == ("text_completion", "4")
    ids = served.engine.tokenizer("<|assistant|>")["input_ids"]
    assert post(served, body | {"prompt": ids}, "/v1/completions").json()["choices"] == first["choices"]
    told = events(post(served, body | {"stream": True}, "/v1/completions"))
    assert "".join(e["choices"][0]["text"] for e in told) == "4"


def test_the_openai_package(served):
    """Its client, plain, streamed and with a vote by extra_body."""
    openai = pytest.importorskip("openai", reason="the openai package is not installed: pip install openai")
    client = openai.OpenAI(base_url=served.url + "/v1", api_key="none")
    assert [m.id for m in client.models.list()] == ["tiny"]
    answer = client.chat.completions.create(**ASKED, n=3)
    assert {c.message.content for c in answer.choices} <= {"4", "5"}
    pieces = client.chat.completions.create(**ASKED, stream=True)
    assert "".join(p.choices[0].delta.content or "" for p in pieces) in ("4", "5")
    vote = client.chat.completions.create(
        **ASKED, extra_body={"fastsample": {"rule": "ahead:k=2", "temperatures": [0.4]}}
    )
    assert vote.model_extra["fastsample"]["rule"] == "ahead:k=2"
    assert (
        client.completions.create(model="tiny", prompt="<|assistant|>", max_tokens=2, temperature=0).choices[0].text
        == "4"
    )
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**ASKED | {"model": "other"})
    with pytest.raises(openai.BadRequestError, match="top_p must be a number"):
        client.chat.completions.create(**ASKED, top_p=1.5)


REFUSED = [
    ({"model": "../../etc/passwd"}, 404, "there is no model"),
    ({"model": None}, 400, "model must be text"),
    ({"n": 1_000_000}, 400, "n must be a whole number from 1 to 256"),
    ({"fastsample": {"samples": 1_000_000}}, 400, "samples must be a whole number from 1 to 256"),
    ({"fastsample": {"samples": 200}}, 400, "a vote may have 256 samples, got 200 at each of 3"),
    ({"fastsample": {"rule": "ahead:k=0"}}, 400, "k must be at least 1"),
    ({"fastsample": {"rule": "nonsense"}}, 400, "no rule is called 'nonsense'"),
    ({"fastsample": {"extractor": "os:system"}}, 400, "extractor must be auto"),
    ({"fastsample": {"judge": "x"}}, 400, "fastsample has the fields"),
    ({"fastsample": []}, 400, "fastsample must be an object"),
    ({"fastsample": {"temperatures": [1e400]}}, 400, ""),
    ({"chat_template": "{{ 7 * 7 }}"}, 400, "a client's template is never rendered"),
    ({"temperature": -1}, 400, "temperature must be a number from 0 to 100"),
    ({"temperature": True}, 400, "temperature must be a number"),
    ({"max_tokens": 10**9}, 400, "max_tokens must be a whole number from 1 to 4,096"),
    ({"stop": [""]}, 400, "stop must be up to 16 texts"),
    ({"seed": -1}, 400, "seed must be a whole number"),
    ({"messages": []}, 400, "messages must be a list"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "the last message must be the user's"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "content must be text"),
    ({"messages": [{"role": "user", "content": " "}]}, 400, "the question is empty"),
    ({"messages": [{"role": "user", "content": "x" * 600}]}, 400, "must leave room in the model's context of 512"),
    ({"logit_bias": {"x": 1}}, 400, "logit_bias must have token ids as its names"),
    ({"logit_bias": {"5": 101}}, 400, "logit_bias must be a number from -100 to 100"),
    ({"logit_bias": {"500000": 1}}, 400, "logit_bias must hold token ids in [0"),
    ({"frequency_penalty": 3}, 400, "frequency_penalty must be a number from -2 to 2"),
    ({"repetition_penalty": 0}, 400, "repetition_penalty must be above 0"),
    ({"tools": [{}]}, 400, "tools is not served"),
    ({"surprise": 1}, 400, "there is no field 'surprise'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "status", "words"), REFUSED)
def test_bad_input(served, change, status, words):
    """The status and one sentence, plain and streamed; nothing of it stays."""
    for stream in (False, True):
        body = json.dumps(ASKED | {"stream": stream} | change)
        answer = httpx.post(served.url + CHAT, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == status, answer.text
        assert words in answer.json()["error"]["message"]
    assert served.service.desk.jobs == {}


def test_bad_bodies(served):
    """No JSON, too large, another type, ids that the model has not, another method, another path."""
    json_type = {"content-type": "application/json"}
    assert httpx.post(served.url + CHAT, content=b"{", headers=json_type).status_code == 400
    assert httpx.post(served.url + CHAT, content=b"[" * 100_000, headers=json_type).status_code == 400
    assert httpx.post(served.url + CHAT, content=b"[1, 2]", headers=json_type).status_code == 400
    assert httpx.post(served.url + CHAT, content=b'{"n": NaN}', headers=json_type).status_code == 400
    assert httpx.post(served.url + CHAT, content=b" " * (2 << 20), headers=json_type).status_code == 413
    assert httpx.post(served.url + CHAT, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    body = {"model": "tiny", "prompt": [10**6]}
    assert "must hold token ids in [0" in post(served, body, "/v1/completions").json()["error"]["message"]
    assert httpx.get(served.url + CHAT).status_code == 405
    assert httpx.get(served.url + "/../pyproject.toml").status_code == 404
    assert httpx.get(served.url + "/healthz", headers={"host": "evil.example"}).status_code == 400


def test_a_key():
    """Asked for everywhere but at the page and at /healthz."""
    with serving(*local(), key="k-1") as served:
        for path in ("/v1/models", "/metrics"):
            assert httpx.get(served.url + path).status_code == 401
            assert httpx.get(served.url + path, headers={"authorization": "Bearer k-1"}).status_code == 200
        assert post(served, ASKED).status_code == 401
        wrong = post(served, ASKED, headers={"authorization": "Bearer k-2"})
        assert (wrong.status_code, "k-1" in wrong.text) == (401, False)
        assert post(served, ASKED, headers={"authorization": "Bearer k-1"}).status_code == 200
        assert httpx.get(served.url + "/healthz").status_code == httpx.get(served.url + "/").status_code == 200


def test_metrics(served):
    """Tokens, savings, requests by status, rows."""
    post(served, ASKED | {"fastsample": {"rule": "ahead:k=2", "temperatures": [0.1], "samples": 9}})
    text = httpx.get(served.url + "/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["fastsample_tokens_total"]) > 0
    assert float(values["fastsample_saved_tokens_total"]) > 0
    assert float(values['fastsample_requests_total{status="200"}']) > 0
    assert float(values["fastsample_running_samples"]) == 0


def test_a_strategy_by_the_model_s_name(served):
    """MODEL@strategy:...: the chosen text, its tree on request, and every token in the usage."""
    more = {"fastsample": {"texts": True, "scorer": "mean-logprob"}, "seed": 1}
    body = post(served, ASKED | {"model": "tiny@strategy:best:n=6", **more}).json()
    found = body["fastsample"]
    assert found["strategy"] == "best:n=6"
    assert len([p for p in found["paths"] if p["parent"] is not None]) == 6
    assert body["choices"][0]["message"]["content"] == found["text"]
    assert body["usage"]["completion_tokens"] == found["tokens"] == 12
    named = {"strategy": "best:n=6", "scorer": "signal:raw_logprob"}
    scored = post(served, ASKED | {"fastsample": named, "seed": 1}).json()["fastsample"]
    assert (scored["strategy"], scored["scorer"], scored["answer"]) == ("best:n=6", "signal:raw_logprob", "4")


def test_a_tree_as_it_grows(served):
    """Streamed: legs with their parents as they end, their scores, then the verdict."""
    named = {"strategy": "beam:n=4,m=2,until=4", "scorer": "signal:raw_logprob"}
    heard = events(post(served, ASKED | {"stream": True, "fastsample": named}))
    told = [e["fastsample"] for e in heard if "fastsample" in e]
    kinds = [t["event"] for t in told]
    assert kinds.count("leg") >= 4
    assert "scored" in kinds
    assert kinds[-1] == "verdict"
    seen = set()
    for t in told[:-1]:
        for path in t["paths"]:
            assert path["parent"] is None or path["parent"] in seen
            seen.add(path["number"])


@pytest.mark.parametrize(
    ("vote", "words"),
    [
        ({"strategy": "best:n=1000000"}, "n of a strategy may be 256 here, got 1,000,000"),
        ({"strategy": "nonsense"}, "nonsense"),
        ({"strategy": 3}, "short form"),
        ({"strategy": "best:n=2", "scorer": "python-unsafe:/etc/passwd"}, "scorer must be one of mean-logprob"),
        ({"strategy": "best:n=2", "scorer": "os:remove"}, "scorer must be one of mean-logprob"),
        (
            {"strategy": "best:n=2", "scorer": "mean-logprob", "budget_tokens": 0},
            "budget_tokens must be a whole number from 1",
        ),
        ({"scorer": "mean-logprob"}, "belong to a strategy"),
        ({"strategy": "beam:n=4"}, "needs a scorer"),
    ],
)
def test_strategies_that_are_refused(served, vote, words):
    """400, one sentence, and the next request is answered."""
    answer = post(served, ASKED | {"fastsample": vote})
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["error"]["message"]
    assert post(served, ASKED).status_code == 200


def test_every_strategy_can_be_asked_for(served):
    """Each of them by its name ends with an answer or a sentence, and leaves no row behind."""
    from fastsample.strategies.registry import METHODS

    for name in METHODS:
        named = {"strategy": name, "scorer": "sigmoid:signal:raw_logprob", "budget_tokens": 400}
        answer = post(served, ASKED | {"fastsample": named})
        assert answer.status_code in (200, 400), (name, answer.text)
    assert served.engine.is_idle
