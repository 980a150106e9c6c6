"""What a server is, asked before the first question: its kind, its model, its tokenizer, and whether closing ends."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

from ..base import Request
from ..vllm.asked import NAMES, PREFIX
from .servers import ServerError
from .streams import Client, NoConnectionError, SilentError
from .wire import ABORT, BrokenError, Dialect, body_of

OWNERS = {"vllm": "vllm", "llamacpp": "llama.cpp", "sglang": "sglang"}
SHOWN = 5  # models in a sentence
SAME = "Zwei 2 + zwei 2 = 4.\nÄ ✓ 你好"  # what two tokenizers must read alike
TRIAL = 200  # tokens of the text that is closed after ten: more than are written in the time of a look
FAILED = (NoConnectionError, SilentError, BrokenError)
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


async def greet(client: Client, seconds: float = 10.0) -> Hello:
    """Ask a server what it is and serves; raises ServerError with what is wrong and what to do."""
    server, models = client.server, await _models(client, seconds)
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
        name = _named(kind, (await _asked(client, "/version", seconds)).get("version"))
        has_draw = await _has_draw(client, model, seconds)
    elif kind == "llama.cpp":
        props = await _asked(client, "/props", seconds)
        name = _named(kind, props.get("build_info"))
        slots = props.get("total_slots") if type(props.get("total_slots")) is int else None
    return Hello(kind, name, model, slots or None, has_draw)


async def _has_draw(client: Client, model: str, seconds: float) -> bool:
    """Whether our draw was loaded into a vLLM server: it refuses an unknown field, and vLLM itself takes any."""
    body = {"model": model, "prompt": "x", "max_tokens": 1, "temperature": 0, "vllm_xargs": {PREFIX + "is_here": 1}}
    with suppress(*FAILED):
        status, said = await client.ask("/v1/completions", seconds, body)
        return status == 400 and (PREFIX + NAMES[0]).encode() in said
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


async def _models(client: Client, seconds: float) -> list[Any] | None:
    """What /v1/models lists; None where a server has no such list."""
    server, url = client.server, client.server.url
    try:
        status, said = await client.ask("/v1/models", seconds)
    except SilentError:
        raise ServerError(f"{url} did not answer within {seconds:g} s; look whether the server is up") from None
    except (NoConnectionError, BrokenError) as error:
        words = server.words(str(error))
        if "CERTIFICATE" in words.upper():
            raise ServerError(
                f"the certificate of {url} cannot be trusted ({words}); name it in SSL_CERT_FILE"
            ) from None
        raise ServerError(f"no server answers at {url} ({words}); look at the URL, and whether it is up") from None
    if status in (401, 403):
        remedy = "the key that it was given is a wrong one" if server.key else "it asks for a key"
        raise ServerError(f"{url} refuses us ({status}): {remedy}; set FASTSAMPLE_API_KEY")
    try:
        listed = json.loads(said).get("data") if status == 200 else None
    except (ValueError, AttributeError, RecursionError):
        listed = None
    if not isinstance(listed, list):
        if status in (404, 405) and server.model is not None:
            return None
        raise ServerError(
            f"{url} is no OpenAI-compatible server: GET /v1/models was answered with {status} and no list "
            "of models; give the URL in front of /v1"
        )
    return listed


async def _asked(client: Client, path: str, seconds: float) -> dict[str, Any]:
    """A JSON object that a server may have at this path; {} where it has none."""
    with suppress(*FAILED, ValueError, RecursionError):
        value = json.loads((await client.ask(path, seconds))[1])
        if isinstance(value, dict):
            return value
    return {}


async def same_ids(client: Client, hello: Hello, tokenizer: Any, seconds: float = 10.0) -> None:
    """Raise ServerError where a server's tokenizer reads a text in another way than `tokenizer`."""
    if hello.kind not in ("vllm", "llama.cpp", "sglang"):
        raise ServerError(f"{client.server.url} may not take token ids; leave the tokenizer out, and chats are sent")
    body = {"content": SAME, "prompt": SAME, "model": hello.model, "add_special_tokens": False, "add_special": False}
    try:
        theirs = json.loads((await client.ask("/tokenize", seconds, body))[1])["tokens"]
    except (*FAILED, ValueError, KeyError, TypeError, RecursionError):
        return  # it tells no ids: then nothing can be compared
    ours = list(tokenizer(SAME, add_special_tokens=False)["input_ids"])
    if isinstance(theirs, list) and theirs != ours:
        raise ServerError(
            f"the tokenizer must be that of the server's model {hello.model}, and the two read a text as {len(ours)} "
            f"and {len(theirs)} tokens, or as others; load the model's own, or leave it out"
        )


async def watch(client: Client, dialect: Dialect, request: Request, seconds: float = 30.0) -> str | None:
    """Close a stream in the middle and look at the server's own counters; returns what is wrong, in a sentence.

    request: for some hundred tokens
    returns: None where closing a stream ends it, or where a server shows no counters
    """
    before = await busy(client, seconds)
    if before is None:
        return None
    seen = 0

    def take(data: bytes) -> bool:
        nonlocal seen
        seen += data.count(b"\n")
        return seen >= 20  # an event and an empty line a token

    rid = dialect.new_name()
    try:
        async with client.post(dialect.path, body_of(request, dialect, 1, rid)) as answer:
            await answer.each(take)
        if rid is not None:
            await client.ask(ABORT, seconds, {"rid": rid})
    except FAILED:
        return None  # the first question tells what it is
    end = monotonic() + SETTLE
    while monotonic() < end:
        now = await busy(client, seconds)
        if now is None or now <= before:
            return None
        await asyncio.sleep(0.1)
    return (
        f"{client.server.url} writes on after a stream was closed: what a vote does not need is written all the same; "
        "samples are therefore started in waves"
    )


async def busy(client: Client, seconds: float) -> int | None:
    """How many samples a server is writing, by its own counters (/slots, /metrics); None where it shows none."""
    with suppress(*FAILED, ValueError, RecursionError, AttributeError):
        status, said = await client.ask("/slots", seconds)
        slots = json.loads(said) if status == 200 else None
        if isinstance(slots, list):
            return sum(bool(s.get("is_processing")) for s in slots)
    with suppress(*FAILED, ValueError):
        text = (await client.ask("/metrics", seconds))[1].decode()
        found = re.findall(r"^(?:vllm:num_requests_running|sglang:num_running_reqs)(?:\{.*\})? ([\d.e+]+)$", text, re.M)
        if found:
            return round(sum(map(float, found)))
    return None
