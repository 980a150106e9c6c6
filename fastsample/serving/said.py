"""What a client is told: OpenAI's objects, made of a result or of an event."""

from __future__ import annotations

from time import time
from typing import Any

from ..engines.base import Sample
from ..strategies.events import Event
from ..strategies.path import Path
from ..strategies.records import Result, Written, elected, votes_of
from .asked import Asked
from .likeliest import Spelling, as_completion, shown

FINISHES = {"eos": "stop", "stop": "stop", "length": "length"}


def finish_of(sample: Written | None) -> str | None:
    """OpenAI's word for how a sample ended."""
    return None if sample is None else FINISHES.get(sample.finish)


def choices_of(asked: Asked, result: Result) -> list[Written | None]:
    """The samples that a request's choices show."""
    if asked.is_vote:
        return [elected(result)]
    ended = list(result.samples)
    return [
        ended[min(i, len(ended) - 1)] for i in range(asked.n)
    ]  # temperature 0 has one text, however often asked for


def head_of(asked: Asked, is_stream: bool) -> dict[str, Any]:
    """id, object, created and model."""
    kind = ("chat.completion" + ".chunk" * is_stream) if asked.is_chat else "text_completion"
    prefix = "chatcmpl" if asked.is_chat else "cmpl"
    return {"id": f"{prefix}-{asked.name}", "object": kind, "created": int(time()), "model": asked.model}


def usage_of(result: Result) -> dict[str, Any]:
    """Every token that was written, those of cancelled samples too; fastsample: what early exit saved."""
    return {
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.tokens,
        "total_tokens": result.prompt_tokens + result.tokens,
        "fastsample": {"budget_tokens": result.budget_tokens, "saved_tokens": result.budget_tokens - result.tokens},
    }


def vote_of(asked: Asked, result: Result) -> dict[str, Any]:
    """What a vote came to; with texts, every sample."""
    record = result.to_json(samples=asked.has_texts)
    for name in ("id", "question"):
        del record[name]
    return record


def logprobs_of(asked: Asked, tokens: list[dict[str, Any]], before: int = 0) -> dict[str, Any]:
    """What a choice says of its tokens (`likeliest.shown`); before: characters that were told in front of them."""
    return {"content": tokens, "refusal": None} if asked.is_chat else as_completion(tokens, before)


def whole(asked: Asked, result: Result, spelling: Spelling) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    choices = []
    for index, sample in enumerate(choices_of(asked, result)):
        text = "" if sample is None else sample.text
        said = {"message": {"role": "assistant", "content": text}} if asked.is_chat else {"text": text}
        kept = None if sample is None else sample.sample
        told = None if kept is None else logprobs_of(asked, shown(kept, spelling))
        choices.append({"index": index, "finish_reason": finish_of(sample), "logprobs": told} | said)
    body = head_of(asked, False) | {"choices": choices, "usage": usage_of(result)}
    return body | {"fastsample": vote_of(asked, result)} if asked.is_vote else body


def chunk(
    asked: Asked, index: int, text: str | None, finish: str | None = None, logprobs: Any = None, **more: Any
) -> dict[str, Any]:
    """One event of a stream; text None says nothing."""
    said = {"delta": {} if text is None else {"content": text}} if asked.is_chat else {"text": text or ""}
    choice = {"index": index, "finish_reason": finish, "logprobs": logprobs} | said
    return head_of(asked, True) | {"choices": [choice]} | more


class Stream:
    """The events of a streamed answer, in order."""

    def __init__(self, asked: Asked, spelling: Spelling) -> None:
        self.asked = asked
        self.spelling = spelling
        self.sent: dict[int, str] = {}
        self.told: dict[int, tuple[int, int]] = {}  # by sample: tokens and characters whose log-probabilities were told

    def begin(self) -> list[dict[str, Any]]:
        """What comes before the first word."""
        asked = self.asked
        if not asked.is_chat:
            return []
        heads = [chunk(asked, index, "") for index in range(asked.n)]
        for head in heads:
            head["choices"][0]["delta"]["role"] = "assistant"
        return heads

    def of(self, event: Event) -> list[dict[str, Any]]:
        """What is told of an event; raises ValueError where a text that was sent in part has begun again."""
        asked = self.asked
        if asked.is_vote:
            return self._of_vote(event)
        if event.kind == "token":
            sent = self.sent.get(event.number, "") + event.piece
            sample = event.strategy.live.get(event.number)
            if sample is not None and not sample.text.startswith(sent):
                raise ValueError("a text began again behind this server, and a part of it was sent; ask again")
            self.sent[event.number] = sent
            more = self._logprobs(event.number, sample)
            return [chunk(asked, index, event.piece, **more) for index in self._indices(event.number)]
        if event.kind == "finished" and event.sample is not None:
            rest = event.sample.text[len(self.sent.get(event.sample.number, "")) :]
            finish, indices = finish_of(event.sample), self._indices(event.sample.number)
            more = self._logprobs(event.sample.number, event.sample.sample)
            told = [chunk(asked, index, rest, **more) for index in indices] if rest or more else []
            return told + [chunk(asked, index, None, finish) for index in indices]
        return []

    def _logprobs(self, number: int, sample: Sample | None) -> dict[str, Any]:
        """Of the tokens that have come since the last time; nothing where they were not asked for or none has come."""
        if self.asked.top_logprobs is None or sample is None:
            return {}
        start, before = self.told.get(number, (0, 0))
        tokens = shown(sample, self.spelling, start)
        self.told[number] = (start + len(tokens), before + sum(len(token["token"]) for token in tokens))
        return {"logprobs": logprobs_of(self.asked, tokens, before)} if tokens else {}

    def _indices(self, number: int) -> range:
        is_one = len(self.asked.settings.plan()) == 1
        return range(self.asked.n) if is_one else range(number, number + 1)

    def _of_vote(self, event: Event) -> list[dict[str, Any]]:
        if self.asked.growth is not None:
            return self._of_tree(event)
        if event.kind == "token":
            told: dict[str, Any] = {"event": "token", "number": event.number, "piece": event.piece}
            told["temperature"] = event.strategy.live[event.number].request.temperature
        elif event.kind in ("finished", "cancelled") and event.sample is not None:
            votes, _ = votes_of([_counted(w) for w in event.strategy.written.values()])
            told = {"event": event.kind, "sample": event.sample.to_json(), "votes": votes}
        else:
            return []
        return [chunk(self.asked, 0, None, fastsample=told)]

    def _of_tree(self, event: Event) -> list[dict[str, Any]]:
        """Legs as they end, their scores, and those that are not continued."""
        if event.kind not in ("leg", "scored", "dropped"):
            return []
        told = {"event": event.kind, "paths": [_leg(path) for path in event.paths]}
        return [chunk(self.asked, 0, None, fastsample=told)]

    def end(self, result: Result) -> list[dict[str, Any]]:
        """What comes behind the last word."""
        asked, told = self.asked, []
        if asked.is_vote:
            sample = elected(result)
            told.append(chunk(asked, 0, "" if sample is None else sample.text))
            more = {"event": "verdict", **vote_of(asked, result), "usage": usage_of(result)}
            told.append(chunk(asked, 0, None, finish_of(sample) or "stop", fastsample=more))
        if asked.has_usage:
            told.append(head_of(asked, True) | {"choices": [], "usage": usage_of(result)})
        return told


def _leg(path: Path) -> dict[str, Any]:
    parent = None if path.parent is None or path.parent.parent is None else path.parent.number
    names = ("number", "temperature", "text", "finish", "answer")
    scores = {"score": path.scores[-1] if path.scores else None, "tokens": len(path.tokens)}
    return {name: getattr(path, name) for name in names} | {"parent": parent, "depth": path.depth} | scores


def _counted(sample: Written) -> Written:
    from dataclasses import replace

    return replace(sample, is_counted=sample.is_finished)
