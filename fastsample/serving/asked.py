"""What a client asks for, read with every field looked at; nothing here knows of HTTP or of an engine."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

from ..answers.extractors import Extractor, extractor_of
from ..engines.base import Traits
from ..engines.penalties import Penalties
from ..solving.fit import fitted
from ..strategies.question import AUTO, SPREAD, TEMPERATURES, Question, Settings
from .growth import PREFIX, Growth, growth_of


class AskedError(ValueError):
    """A request that is refused. status: of HTTP; name: the field that is wrong"""

    def __init__(self, message: str, status: int = 400, name: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.name = name


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    body_bytes: int = 1 << 20
    messages: int = 1000
    samples: int = 256
    max_tokens: int = 4096
    stops: int = 16
    top_logprobs: int = 20
    biases: int = 1024
    temperatures: int = 16


@dataclass(frozen=True)
class Asked:
    """A request, understood.

    n: choices of a plain one; is_vote: one answer is elected; has_texts: show every sample
    growth: how texts grow, None for a vote and a plain request
    top_logprobs: how many of the likeliest tokens are told beside each; None tells no log-probabilities
    """

    question: Question
    text: str | None  # a prompt as it is, without a chat template
    settings: Settings
    extract: Extractor
    model: str
    n: int = 1
    is_vote: bool = False
    is_stream: bool = False
    is_chat: bool = True
    has_usage: bool = False
    has_texts: bool = False
    growth: Growth | None = None
    top_logprobs: int | None = None
    name: str = field(default_factory=lambda: secrets.token_hex(12))


PLAIN = {
    "model", "messages", "prompt", "n", "temperature", "top_p", "top_k", "min_p", "max_tokens", "seed", "stop",
    "frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias",
    "max_completion_tokens", "stream", "stream_options", "fastsample", "user", "metadata", "store", "service_tier",
    "logprobs", "top_logprobs",
}  # fmt: skip
# What is taken only where it changes nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],), "tool_choice": ("none", "auto"), "best_of": (1,), "echo": (False,), "suffix": ("",),
    "response_format": ({"type": "text"},), "parallel_tool_calls": (True, False),
}  # fmt: skip
OURS = {
    "rule", "temperatures", "samples", "extractor", "together", "texts", "strategy", "scorer", "budget_tokens",
}  # fmt: skip


def read(body: Any, served: str, traits: Traits, limits: Limits, *, is_chat: bool) -> Asked:
    """The request in a JSON body; raises AskedError with rule, value and remedy.

    served: the model's name; MODEL@RULE asks for a vote by that rule, MODEL@strategy:SHORT_FORM for a strategy
    """
    if not isinstance(body, dict):
        raise AskedError("the body must be a JSON object")
    for name, value in body.items():
        if name in ("chat_template", "chat_template_kwargs"):
            raise AskedError(f"{name} is not taken: a client's template is never rendered; leave it out", name=name)
        if name in NEUTRAL and (value is None or value in NEUTRAL[name]):
            continue
        if name in NEUTRAL:
            raise AskedError(f"{name} is not served; leave it out", name=name)
        if name not in PLAIN:
            raise AskedError(f"there is no field {_short(name)}; leave it out", name="")
    model, _, rule = _text(body, "model").partition("@")
    if model != served:
        raise AskedError(f"there is no model {_short(model)}; this server has {served}", 404, "model")
    vote = body.get("fastsample")
    if vote is not None and not isinstance(vote, dict):
        raise AskedError('fastsample must be an object such as {"rule": "ahead:k=3"}', name="fastsample")
    if vote is not None and vote.keys() - OURS:
        raise AskedError(f"fastsample has the fields {', '.join(sorted(OURS))}; got {_short(min(vote.keys() - OURS))}")
    is_vote = vote is not None or bool(rule)
    suffix = {"strategy": rule.removeprefix(PREFIX)} if rule.startswith(PREFIX) else {"rule": rule} if rule else {}
    vote = (vote or {}) | suffix
    options = body.get("stream_options")
    has_usage = isinstance(options, dict) and options.get("include_usage") is True
    settings, n = _settings(body, vote if is_vote else None, limits)
    try:
        settings = fitted(settings, traits)
        extract = extractor_of(_extractor(vote)) if is_vote else _nothing
        growth = growth_of(vote, limits.samples, settings.max_new_tokens) if is_vote else None
        if growth is not None:
            growth.check(traits)
    except ValueError as error:
        raise AskedError(str(error), name="fastsample") from None
    top_logprobs = _top_logprobs(body, limits, is_chat=is_chat)
    if top_logprobs is not None and (is_vote or not traits.tops):
        why = "a vote has one answer of many texts" if is_vote else f"the engine {traits.name} does not tell them all"
        raise AskedError(f"logprobs are told of a plain request, and {why}; leave them out", name="logprobs")
    question, text = _chat(body, limits) if is_chat else _prompt(body)
    return Asked(
        question, text, settings, extract, served, n, is_vote, _flag(body, "stream"), is_chat, has_usage,
        is_vote and _flag(vote, "texts"), growth, top_logprobs,
    )  # fmt: skip


def _nothing(text: str) -> None:
    return None


def _top_logprobs(body: dict[str, Any], limits: Limits, *, is_chat: bool) -> int | None:
    """A chat says `logprobs` and how many; the older route says how many by `logprobs` itself."""
    if not is_chat:
        if body.get("top_logprobs") is not None:
            raise AskedError("top_logprobs is a field of chats; here logprobs is the number", name="top_logprobs")
        return _whole(body, "logprobs", None, 0, limits.top_logprobs)
    count = _whole(body, "top_logprobs", None, 0, limits.top_logprobs)
    if count and not _flag(body, "logprobs"):
        raise AskedError(f"top_logprobs is {count}, so logprobs must be true; send both", name="top_logprobs")
    return (count or 0) if _flag(body, "logprobs") else None


def _extractor(vote: dict[str, Any]) -> str:
    """A name without a part that would run or load anything of the client's choosing."""
    name = vote.get("extractor", "auto")
    if not isinstance(name, str) or ":" in name:
        raise AskedError("extractor must be auto, boxed, number, choice, last-line or math", name="fastsample")
    return name


def _settings(body: dict[str, Any], vote: dict[str, Any] | None, limits: Limits) -> tuple[Settings, int]:
    n = _whole(body, "n", 1, 1, limits.samples)
    limit = _whole(body, "max_completion_tokens", None, 1, limits.max_tokens)
    limit = limit or _whole(body, "max_tokens", min(256, limits.max_tokens), 1, limits.max_tokens)
    common = {
        "top_p": _number(body, "top_p", 1.0, 0.0, 1.0, is_open=True),
        "min_p": _number(body, "min_p", 0.0, 0.0, 0.999),
        "top_k": _whole(body, "top_k", 0, 0, 1 << 30),
        "max_new_tokens": limit,
        "seed": _whole(body, "seed", secrets.randbits(62), 0, (1 << 63) - 1),
        "stop": _stop(body, limits),
        "penalties": Penalties(
            _number(body, "repetition_penalty", 1.0, 0.0, 100.0, is_open=True),
            _number(body, "frequency_penalty", 0.0, -2.0, 2.0),
            _number(body, "presence_penalty", 0.0, -2.0, 2.0),
            tuple(_biases(body, limits).items()),
        ),
    }
    if vote is None:
        temperature = _number(body, "temperature", 1.0, 0.0, 100.0)
        return Settings((temperature,), n, together=True, **common), n
    if n != 1:
        raise AskedError(f"a vote has one answer, so n must be 1, got {n}; fastsample.samples is the number", name="n")
    named = vote.get("temperatures", list(TEMPERATURES))
    is_auto = named == AUTO
    temperatures = list(SPREAD) if is_auto else named
    if not isinstance(temperatures, list) or not 1 <= len(temperatures) <= limits.temperatures:
        raise AskedError(
            f'temperatures must be a list of 1 to {limits.temperatures} numbers, or "auto"', name="fastsample"
        )
    each = [_number({"temperatures": t}, "temperatures", 0.0, 0.0, 100.0) for t in temperatures]
    samples = _whole(vote, "samples", 5, 1, limits.samples)
    if samples * len(each) > limits.samples:
        raise AskedError(
            f"a vote may have {limits.samples} samples, got {samples} at each of {len(each)} temperatures; lower them"
        )
    rule = vote.get("rule", "majority")
    if not isinstance(rule, str) or len(rule) > 100:
        raise AskedError("rule must be a rule's name, such as ahead:k=3", name="fastsample")
    try:
        settings = Settings(tuple(each), samples, rule, together=_flag(vote, "together"), is_adaptive=is_auto, **common)
        settings.plan()
    except ValueError as error:
        raise AskedError(str(error), name="fastsample") from None
    return settings, n


def _chat(body: dict[str, Any], limits: Limits) -> tuple[Question, None]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not 1 <= len(messages) <= limits.messages:
        raise AskedError(f"messages must be a list of 1 to {limits.messages} messages", name="messages")
    turns = [_turn(m) for m in messages]
    if turns[-1]["role"] != "user":
        raise AskedError("the last message must be the user's: it is what is answered", name="messages")
    return Question(turns[-1]["content"], history=tuple(turns[:-1])), None


def _turn(message: Any) -> dict[str, str]:
    role = message.get("role") if isinstance(message, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if role not in ("system", "developer", "user", "assistant"):
        raise AskedError("a message must have the role system, user or assistant", name="messages")
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        content = "".join(p["text"] for p in content)
    if not isinstance(content, str):
        raise AskedError("a message's content must be text", name="messages")
    return {"role": "system" if role == "developer" else role, "content": content}


def _prompt(body: dict[str, Any]) -> tuple[Question, str | None]:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt:
        return Question(prompt), prompt
    if isinstance(prompt, list) and prompt and all(type(i) is int for i in prompt):
        return Question("token ids", prompt=tuple(prompt)), None
    raise AskedError("prompt must be one text, or one list of token ids, and not empty", name="prompt")


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise AskedError(f"{name} must be text, got {_short(value)}", name=name)
    return value


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise AskedError(f"{name} must be true or false, got {_short(value)}", name=name)
    return bool(value)


def _number(body: dict[str, Any], name: str, default: float, low: float, high: float, is_open: bool = False) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise AskedError(f"{name} must be a number from {low:g} to {high:g}, got {_short(value)}", name=name)
    if is_open and value == low:
        raise AskedError(f"{name} must be above {low:g}, got {value}", name=name)
    return float(value)


def _whole(body: dict[str, Any], name: str, default: Any, low: int, high: int) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise AskedError(f"{name} must be a whole number from {low:,} to {high:,}, got {_short(value)}", name=name)
    return value


def _stop(body: dict[str, Any], limits: Limits) -> tuple[str, ...]:
    stop = body.get("stop")
    stop = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(s, str) and s for s in stop) or len(stop) > limits.stops:
        raise AskedError(f"stop must be up to {limits.stops} texts that are not empty", name="stop")
    return tuple(stop)


def _biases(body: dict[str, Any], limits: Limits) -> dict[int, float]:
    """By token id, which JSON writes as text."""
    given = body.get("logit_bias")
    given = {} if given is None else given
    if not isinstance(given, dict) or len(given) > limits.biases:
        raise AskedError(f"logit_bias must be an object of up to {limits.biases} token ids", name="logit_bias")
    if not all(token.isascii() and token.isdecimal() and len(token) < 10 for token in given):
        raise AskedError('logit_bias must have token ids as its names, as in {"42": -5}', name="logit_bias")
    return {int(token): _number({"logit_bias": v}, "logit_bias", 0.0, -100.0, 100.0) for token, v in given.items()}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
