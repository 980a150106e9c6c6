"""What is sent for a request and what a streamed answer says, as plain functions; nothing here touches a network."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import isfinite
from typing import Any
from uuid import uuid4

from ...token_stats import TOP, TokenStats, likeliest_stats
from ..base import UNTOLD, Request, check_untold
from ..vllm.asked import Asked
from .chat import messages_of

LONGEST_LINE = 1 << 20
FILTERED = ("vllm", "sglang", "llama.cpp")  # take top_k and min_p, which are no fields of OpenAI's
ABORTING = ("sglang",)  # end a request when its name is sent to `ABORT`, and not surely when its stream is closed
ABORT = "/abort_request"
REPEATING = ("vllm", "sglang")  # take repetition_penalty, which is none either
FINISHES = {"stop": "eos", "eos": "eos", "length": "length"}


class BrokenError(Exception):
    """An answer that cannot be used; the sample begins again."""


@dataclass(frozen=True)
class Dialect:
    """How a server is spoken to.

    kind: see `Server`; takes_ids: prompts are token ids, not chats; has_draw: it draws our tokens, by seed and stream
    """

    kind: str
    model: str
    takes_ids: bool = False
    has_logprobs: bool = False
    sends_seeds: bool = False
    has_draw: bool = False

    @property
    def path(self) -> str:
        """Where requests go."""
        return "/v1/completions" if self.takes_ids else "/v1/chat/completions"

    def new_name(self) -> str | None:
        """A name for one request, to end it by (`rid`); None for servers that end it with its stream."""
        return uuid4().hex if self.kind in ABORTING else None


@dataclass
class Piece:
    """What one event says of one choice. tokens: ids, UNTOLD for each of which only the number is known."""

    index: int
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    stats: list[TokenStats] = field(default_factory=list)
    finish: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Usage:
    """A server's own count: tokens of the prompt, of those from its cache, and written for all choices."""

    prompt: int
    cached: int
    written: int


def check(request: Request, dialect: Dialect) -> None:
    """Raise ValueError for a request that such a server cannot serve; rule, value, remedy."""
    r = request
    if not r.prompt:
        raise ValueError("prompt must have at least one token, got none")
    if not (isfinite(r.temperature) and r.temperature >= 0):
        raise ValueError(
            f"temperature must be a finite number of at least 0, got {r.temperature}; 0 takes the likeliest"
        )
    if not 0 < r.top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {r.top_p}; 1 keeps every token")
    if not 0 <= r.min_p < 1:
        raise ValueError(f"min_p must be in [0, 1), got {r.min_p}; 0 keeps every token")
    if r.top_k < 0:
        raise ValueError(f"top_k must be at least 0, got {r.top_k}; 0 keeps every token")
    if r.max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {r.max_new_tokens}")
    if isinstance(r.stop, str) or "" in r.stop:
        raise ValueError(f"stop must be a tuple of strings that are not empty, got {r.stop!r}")
    if dialect.kind not in FILTERED and (r.top_k or r.min_p):
        raise ValueError("top_k and min_p are no fields of OpenAI's, and this server may ignore them; leave them out")
    if r.penalties.repetition != 1 and dialect.kind not in REPEATING:
        raise ValueError(
            "repetition_penalty is no field of OpenAI's, and this server may ignore it; leave it out, or use "
            "presence_penalty"
        )
    if r.penalties.are_any and dialect.has_draw:
        raise ValueError("our draw inside vLLM knows no penalties and no logit_bias; leave them out")
    for name, value in (("logits processor", r.logits_processor), ("grammar", r.grammar)):
        if value is not None:
            raise ValueError(f"a {name} runs in this process only, and a server writes the samples; leave it out")
    check_untold(r)
    if r.min_new_tokens or r.eos is not None:
        raise ValueError("min_new_tokens and eos are not sent to servers; leave them out")
    if r.after is not None or r.append or r.until or r.until_ids or r.park:
        raise ValueError("a server keeps no paths (Traits.parks is False); choose an engine in this process")
    if dialect.takes_ids:
        if min(r.prompt) < 0:
            raise ValueError(f"prompt must hold token ids, got {min(r.prompt)}; this server does not tell a text's ids")
    else:
        messages_of(r.prompt)


def body_of(request: Request, dialect: Dialect, n: int, rid: str | None = None) -> dict[str, Any]:
    """The JSON of a request for `n` samples; what a server would default to something is said outright.

    rid: the name that `ABORTING` servers end it by
    """
    r = request
    body: dict[str, Any] = {
        "model": dialect.model,
        "max_tokens": r.max_new_tokens,
        "temperature": r.temperature,
        "top_p": r.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body |= {"prompt": list(r.prompt)} if dialect.takes_ids else {"messages": messages_of(r.prompt)}
    if rid is not None:
        body["rid"] = rid
    if n > 1:
        body["n"] = n
    if r.stop:
        body["stop"] = list(r.stop)
    if dialect.kind in FILTERED:
        off = 0 if dialect.kind == "llama.cpp" else -1
        body |= {"top_k": r.top_k or off, "min_p": r.min_p}
    if dialect.kind in REPEATING:
        body["repetition_penalty"] = float(r.penalties.repetition)  # a model's generation config may hold another
    for name in ("frequency", "presence"):
        if value := getattr(r.penalties, name):
            body[f"{name}_penalty"] = value
    if r.penalties.logit_bias:  # -100 forbids a token, and is the least that OpenAI's takes
        body["logit_bias"] = {str(token): max(bias, -100.0) for token, bias in r.penalties.logit_bias}
    if dialect.kind == "vllm":
        body["return_token_ids"] = True
        body["stream_options"]["continuous_usage_stats"] = True
    if dialect.kind == "llama.cpp":
        body["timings_per_token"] = True
    if dialect.has_logprobs:
        body |= {"logprobs": TOP} if dialect.takes_ids else {"logprobs": True, "top_logprobs": TOP}
    if dialect.has_draw:  # asked for greedy decoding, vLLM takes what was drawn
        body |= {"temperature": 0.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "vllm_xargs": Asked.of(r).fields}
    elif dialect.sends_seeds:
        body["seed"] = (r.seed * 0x9E3779B1 + (r.stream or 0)) % (1 << 31)
    return body


def error_in(event: Any) -> tuple[str, int | None] | None:
    """(words, status) of an error that an answer of status 200 holds, or None."""
    error = event.get("error") if isinstance(event, dict) else None
    if error is None:
        return None
    if isinstance(error, dict):
        status = error.get("code") if type(error.get("code")) is int else error.get("status")
        return str(error.get("message") or error), status if type(status) is int else None
    return str(error), None


def usage_of(event: Any) -> Usage | None:
    """The count in an event; None where there is none, or none that can be: a server may lie."""
    usage = event.get("usage") if isinstance(event, dict) else None
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    prompt, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is not int or type(written) is not int or not (0 <= prompt < 1 << 40 and 0 <= written < 1 << 40):
        return None
    return Usage(prompt, cached if type(cached) is int and 0 <= cached <= prompt else 0, written)


def reading_of(event: Any) -> tuple[int, int] | None:
    """(tokens of the prompt, of these read and not taken from a cache), once an event tells them: at the end of a
    stream, or with llama.cpp's timings and vLLM's running count from the beginning."""
    usage = usage_of(event)
    if usage is not None:
        return usage.prompt, usage.prompt - usage.cached
    timings = event.get("timings") if isinstance(event, dict) else None
    if not isinstance(timings, dict):
        return None
    cached, read = timings.get("cache_n"), timings.get("prompt_n")
    if type(cached) is not int or type(read) is not int or min(cached, read) < 0 or not cached + read < 1 << 40:
        return None
    return cached + read, read


def pieces_of(event: Any) -> list[Piece]:
    """What an event says of its choices; raises BrokenError for what is no event."""
    choices = event.get("choices") if isinstance(event, dict) else None
    if choices is None and isinstance(event, dict) and "usage" in event:
        return []
    if not isinstance(choices, list):
        raise BrokenError("an event without choices")
    return [_piece_of(choice) for choice in choices]


def _piece_of(choice: Any) -> Piece:
    if not isinstance(choice, dict):
        raise BrokenError("a choice that is no object")
    index = choice.get("index", 0)
    delta = choice.get("delta")
    said: dict[str, Any] = delta if isinstance(delta, dict) else {"content": choice.get("text")}
    text, thought = said.get("content") or "", said.get("reasoning_content") or said.get("reasoning")
    if type(index) is not int or not isinstance(text, str):
        raise BrokenError("a choice of another form")
    piece = Piece(index, text)
    ids = choice.get("token_ids")
    piece.stats = _stats_of(choice.get("logprobs"))
    if isinstance(ids, list) and all(type(i) is int and i >= 0 for i in ids):
        piece.tokens = ids
    elif piece.stats:
        piece.tokens = [UNTOLD] * len(piece.stats)
    else:
        piece.tokens = [UNTOLD] if text or thought else []
    finish = choice.get("finish_reason")
    if finish is not None:
        piece.finish = FINISHES.get(finish, "failed")
        if piece.finish == "failed":
            piece.error = f"the server ended it: {finish}"
        elif piece.finish == "eos" and isinstance(choice.get("stop_reason"), str):
            piece.finish = "stop"
    return piece


def _stats_of(logprobs: Any) -> list[TokenStats]:
    """Statistics of an event's tokens, in either form in which servers give log-probabilities; [] without any."""
    if not isinstance(logprobs, dict):
        return []
    content = logprobs.get("content")
    if isinstance(content, list):
        rows = [
            (c.get("logprob"), [t.get("logprob") for t in c.get("top_logprobs") or () if isinstance(t, dict)])
            for c in content
            if isinstance(c, dict)
        ]
    else:
        tops = logprobs.get("top_logprobs") or []
        rows = [(p, list((t or {}).values())) for p, t in zip(logprobs.get("token_logprobs") or [], tops)]
    return [likeliest_stats(own, top) for own, top in rows]


class Events:
    """Splits the bytes of a stream of server-sent events; `feed` returns the JSON values that are complete."""

    def __init__(self) -> None:
        self._rest = b""
        self.is_done = False

    def feed(self, data: bytes) -> list[Any]:
        """The values of the events that `data` completes; raises BrokenError for a line that is none."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise BrokenError(f"a line of more than {LONGEST_LINE:,} bytes")
        values = []
        for line in lines:
            text = line.strip()
            if not text.startswith(b"data:"):
                if text.startswith(b"error:"):  # llama.cpp's way in some releases
                    values.append({"error": text.removeprefix(b"error:").decode("utf-8", "replace").strip()})
                continue
            text = text.removeprefix(b"data:").strip()
            if text == b"[DONE]":
                self.is_done = True
                break
            try:
                values.append(json.loads(text))
            except (ValueError, RecursionError):
                raise BrokenError("half an event") from None
        return values
