"""What a server is, asked before the first question: its kind, its model, its tokenizer, and whether closing ends."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

from ..base import Request
from ..vllm.asked import NAMES, PREFIX
from .servers import Server, ServerError, http_client
from .wire import ABORTING, Dialect, body_of

OWNERS = {"vllm": "vllm", "llamacpp": "llama.cpp", "sglang": "sglang"}
SHOWN = 5  # models in a sentence
SAME = "Zwei 2 + zwei 2 = 4.\nÄ ✓ 你好"  # what two tokenizers must read alike
TRIAL = 200  # tokens of the text that is closed after ten: more than are written in the time of a look
SETTLE = 2.0  # seconds in which a server must have ended what was closed


@dataclass(frozen=True)
class Hello:
    """What a server said of itself.

    name: its kind with its version; slots: samples that it writes at once, if told; has_draw: it draws our tokens
    """

    kind: str
    name: str
    model: str
    slots: int | None = None
    has_draw: bool = False


def greet(server: Server, seconds: float = 10.0) -> Hello:
    """Ask a server what it is and serves; raises ServerError with what is wrong and what to do."""
    models = _models(server, seconds)
    listed = [m for m in models if isinstance(m, dict) and isinstance(m.get("id"), str)] if models is not None else []
    names = [m["id"] for m in listed]
    model = server.model
    if model is None:
        if len(names) != 1:
            shown = ", ".join(names[:SHOWN]) if names else "none that it tells"
            raise ServerError(f"{server.url} serves {shown}; name one with --model (Server.model)")
        model = names[0]
    elif names and model not in names:
        raise ServerError(f"{server.url} does not serve {model!r}; it serves {', '.join(names[:SHOWN])}")
    owner = next((str(m.get("owned_by", "")) for m in listed), "")
    kind = OWNERS.get(owner.lower(), "openai") if server.kind == "auto" else server.kind
    name, slots, has_draw = kind, None, False
    if kind == "vllm":
        name = _named(kind, _asked(server, "/version", seconds).get("version"))
        has_draw = _has_draw(server, model, seconds)
    elif kind == "llama.cpp":
        props = _asked(server, "/props", seconds)
        name = _named(kind, props.get("build_info"))
        slots = props.get("total_slots") if type(props.get("total_slots")) is int else None
    return Hello(kind, name, model, slots or None, has_draw)


def _has_draw(server: Server, model: str, seconds: float) -> bool:
    """Whether our draw was loaded into a vLLM server: it refuses an unknown field, and vLLM itself takes any."""
    httpx = http_client()
    body = {"model": model, "prompt": "x", "max_tokens": 1, "temperature": 0, "vllm_xargs": {PREFIX + "is_here": 1}}
    with suppress(httpx.HTTPError):
        with httpx.Client(headers=server.headers, timeout=httpx.Timeout(seconds)) as client:
            answer = client.post(server.url + "/v1/completions", json=body)
        return bool(answer.status_code == 400 and PREFIX + NAMES[0] in answer.text)
    return False


def _named(kind: str, version: Any) -> str:
    return f"{kind} {version}" if isinstance(version, str) and re.fullmatch(r"[\w.+-]{1,40}", version) else kind


def one_of(hellos: Sequence[Hello]) -> Hello:
    """What they all are; raises ServerError where they differ."""
    first = hellos[0]
    for other in hellos[1:]:
        if (other.kind, other.model) != (first.kind, first.model):
            raise ServerError(
                f"servers must be of one kind and serve one model, got {first.model} by {first.name} and "
                f"{other.model} by {other.name}; use one of them"
            )
        if other.has_draw != first.has_draw:
            raise ServerError("servers must draw alike, got FastDraw in some of them only; load it into all, or none")
    return first


def _models(server: Server, seconds: float) -> list[Any] | None:
    """What /v1/models lists; None where a server has no such list."""
    httpx, url = http_client(), server.url
    try:
        with httpx.Client(headers=server.headers, timeout=httpx.Timeout(seconds)) as client:
            answer = client.get(url + "/v1/models")
    except httpx.TimeoutException:
        raise ServerError(f"{url} did not answer within {seconds:g} s; look whether the server is up") from None
    except httpx.HTTPError as error:
        words = server.words(str(error))
        if "CERTIFICATE" in words.upper():
            raise ServerError(
                f"the certificate of {url} cannot be trusted ({words}); name it in SSL_CERT_FILE"
            ) from None
        raise ServerError(f"no server answers at {url} ({words}); look at the URL, and whether it is up") from None
    if answer.status_code in (401, 403):
        remedy = "the key that it was given is a wrong one" if server.key else "it asks for a key"
        raise ServerError(f"{url} refuses us ({answer.status_code}): {remedy}; set FASTSAMPLE_API_KEY")
    try:
        listed = answer.json().get("data") if answer.status_code == 200 else None
    except (ValueError, AttributeError, RecursionError):
        listed = None
    if not isinstance(listed, list):
        if answer.status_code in (404, 405) and server.model is not None:
            return None
        raise ServerError(
            f"{url} is no OpenAI-compatible server: GET /v1/models was answered with {answer.status_code} and no list "
            "of models; give the URL in front of /v1"
        )
    return listed


def _asked(server: Server, path: str, seconds: float) -> dict[str, Any]:
    """A JSON object that a server may have at this path; {} where it has none."""
    httpx = http_client()
    with suppress(httpx.HTTPError, ValueError, RecursionError):
        with httpx.Client(headers=server.headers, timeout=httpx.Timeout(seconds)) as client:
            value = client.get(server.url + path).json()
        if isinstance(value, dict):
            return value
    return {}


def same_ids(server: Server, hello: Hello, tokenizer: Any, seconds: float = 10.0) -> None:
    """Raise ServerError where a server's tokenizer reads a text in another way than `tokenizer`."""
    if hello.kind not in ("vllm", "llama.cpp", "sglang"):
        raise ServerError(f"{server.url} may not take token ids; leave the tokenizer out, and chats are sent")
    httpx = http_client()
    body = {"content": SAME, "prompt": SAME, "model": hello.model, "add_special_tokens": False, "add_special": False}
    try:
        with httpx.Client(headers=server.headers, timeout=httpx.Timeout(seconds)) as client:
            theirs = client.post(server.url + "/tokenize", json=body).json()["tokens"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return  # it tells no ids: then nothing can be compared
    ours = list(tokenizer(SAME, add_special_tokens=False)["input_ids"])
    if isinstance(theirs, list) and theirs != ours:
        raise ServerError(
            f"the tokenizer must be that of the server's model {hello.model}, and the two read a text as {len(ours)} "
            f"and {len(theirs)} tokens, or as others; load the model's own, or leave it out"
        )


def watch(server: Server, dialect: Dialect, request: Request, seconds: float = 30.0) -> str | None:
    """Close a stream in the middle and look at the server's own counters; returns what is wrong, in a sentence.

    request: for some hundred tokens
    returns: None where closing a stream ends it, or where a server shows no counters
    """
    httpx = http_client()
    with httpx.Client(headers=server.headers, timeout=httpx.Timeout(seconds)) as client:
        before = busy(server, client)
        if before is None:
            return None
        try:
            rid = uuid4().hex if dialect.kind in ABORTING else None
            body = body_of(request, dialect, 1, rid)
            with client.stream("POST", server.url + dialect.path, json=body) as answer:
                for seen, _ in enumerate(answer.iter_lines()):
                    if seen >= 20:  # an event and an empty line a token
                        break
            if rid is not None:
                client.post(server.url + "/abort_request", json={"rid": rid})
        except httpx.HTTPError:
            return None  # the first question tells what it is
        end = monotonic() + SETTLE
        while monotonic() < end:
            now = busy(server, client)
            if now is None or now <= before:
                return None
            sleep(0.1)
    return (
        f"{server.url} writes on after a stream was closed: what a vote does not need is written all the same; "
        "samples are therefore started in waves"
    )


def busy(server: Server, client: Any) -> int | None:
    """How many samples a server is writing, by its own counters (/slots, /metrics); None where it shows none."""
    httpx = http_client()
    with suppress(httpx.HTTPError, ValueError, RecursionError, AttributeError):
        slots = client.get(server.url + "/slots")
        if slots.status_code == 200 and isinstance(slots.json(), list):
            return sum(bool(s.get("is_processing")) for s in slots.json())
    with suppress(httpx.HTTPError, ValueError):
        text = client.get(server.url + "/metrics").text
        found = re.findall(r"^(?:vllm:num_requests_running|sglang:num_running_reqs)(?:\{.*\})? ([\d.e+]+)$", text, re.M)
        if found:
            return round(sum(map(float, found)))
    return None
