"""An engine that keeps no paths, made to write them leg by leg: every leg sends all token ids again.

What a local engine that parks does with the model's own state is done here with texts: a delimiter is a stop string, an
end of thinking an end of the sample, and a leg that has not ended yet is sent again with what it has so far. The draw
goes on at the same positions of the same stream, so the tokens are the same wherever the engine's logits are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from ..engines.base import Engine, Parked, Request, Sample, Traits
from ..token_stats import TokenStats

NOT_DRAWN = TokenStats(*[float("nan")] * 4)


@dataclass
class _Writing:
    """One sample that is asked for, and what the engine writes for it now. start: where its newest piece begins."""

    sample: Sample
    inner: Sample
    done: list[int]
    stats: list[TokenStats]
    legs: int = 0
    start: int = 0


class Rereading:
    """See above; a request without legs goes to the engine as it is."""

    def __init__(self, engine: Engine, tokenizer: Any) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.slots, self.steps, self.prefill_tokens = engine.slots, engine.steps, engine.prefill_tokens
        self.context: int | None = getattr(engine, "context", None)
        self._writing: dict[int, _Writing] = {}  # id of the engine's sample -> what it is for

    @property
    def traits(self) -> Traits:
        """The engine's."""
        return self.engine.traits

    @property
    def waiting(self) -> Sequence[Sample]:
        """The engine's."""
        return self.engine.waiting

    @property
    def running(self) -> Sequence[Sample]:
        """The engine's."""
        return self.engine.running

    def submit(self, requests: Iterable[Request]) -> list[Sample]:
        """Queue the requests, in order."""
        wanted = list(requests)
        inner = self.engine.submit([self._plain(request, list(request.append)) for request in wanted])
        samples = []
        for request, one in zip(wanted, inner):
            if one.request is request:
                samples.append(one)
                continue
            appended = list(request.append)
            sample = Sample(request, list(appended), appended=len(appended))
            self._writing[id(one)] = _Writing(sample, one, appended, [NOT_DRAWN] * len(appended), 0, len(appended))
            samples.append(sample)
        return samples

    def cancel(self, samples: Iterable[Sample]) -> None:
        """End samples at once; finished ones are left as they are."""
        by_sample = {id(w.sample): key for key, w in self._writing.items()}
        inner = []
        for sample in samples:
            key = by_sample.get(id(sample))
            if key is None:
                inner.append(sample)
            else:
                writing = self._writing.pop(key)
                inner.append(writing.inner)
                self._copy(writing)
                sample.finish = "cancelled"
        self.engine.cancel(inner)

    def step(self) -> list[Sample]:
        """Go on; returns the samples that ended."""
        ended = []
        for inner in self.engine.step():
            writing = self._writing.pop(id(inner), None)
            if writing is None:
                ended.append(inner)
            elif self._is_over(writing):
                ended.append(writing.sample)
            else:
                writing.done, writing.stats = list(writing.sample.tokens), list(writing.sample.stats)
                (writing.inner,) = self.engine.submit([self._plain(writing.sample.request, writing.done)])
                self._writing[id(writing.inner)] = writing
        for writing in self._writing.values():
            self._copy(writing)
        self.steps, self.prefill_tokens = self.engine.steps, self.engine.prefill_tokens
        return ended

    def release(self, parked: Iterable[Parked]) -> None:
        """Nothing is kept."""

    def read(self, parked: Parked, tokens: Sequence[int]) -> NoReturn:
        """Raises ValueError: the engine only writes."""
        raise ValueError(f"{self.traits.name} cannot say how likely a given text is; use an engine that keeps paths")

    def cut(self, parked: Parked, kept: int) -> NoReturn:
        """Never called: nothing is parked."""
        raise ValueError(f"{self.traits.name} keeps no paths")

    def _plain(self, request: Request, done: list[int]) -> Request:
        """The request for what is missing of it."""
        if not (request.append or request.until or request.until_ids or request.park or done):
            return request
        if not self.traits.token_ids:
            raise ValueError(
                f"the engine {self.traits.name} tells no token ids, and this strategy continues a text by them; "
                "use best, weighted or vote"
            )
        drawn = len(done) - len(request.append)
        eos = request.eos
        if request.until_ids:
            own = getattr(self.tokenizer, "eos_token_id", None) if eos is None else None
            eos = (*(eos or ()), *(() if own is None else (own,)), *request.until_ids)
        return replace(
            request,
            prompt=request.prompt + tuple(done),
            stop=request.stop + request.until,
            eos=eos,
            max_new_tokens=request.max_new_tokens - drawn,
            min_new_tokens=max(0, request.min_new_tokens - drawn),
            after=None,
            append=(),
            until=(),
            until_ids=(),
            legs=1,
            park=False,
        )

    def _copy(self, writing: _Writing) -> None:
        writing.sample.tokens = writing.done + writing.inner.tokens
        writing.sample.stats = writing.stats + writing.inner.stats

    def _is_over(self, writing: _Writing) -> bool:
        """Whether the whole sample has ended, and how; False where it ended at a delimiter that is passed by."""
        self._copy(writing)
        sample, inner, request = writing.sample, writing.inner, writing.sample.request
        if inner.finish == "failed":
            sample.finish, sample.error = "failed", inner.error
            return True
        text = self._text(sample.tokens[sample.appended :])
        if inner.finish == "eos" and sample.tokens[-1] in request.until_ids:
            sample.ended_by = sample.tokens.pop()
            sample.stats.pop()
            sample.finish = "until"
        elif inner.finish == "stop":
            piece = self._text(sample.tokens[writing.start :])
            if any(word in text for word in request.stop):
                sample.finish = "stop"
                text = text[: min(at for word in request.stop if (at := text.find(word)) >= 0)]
            else:
                visible = len(piece) - len(piece.lstrip())
                if any(word in piece[visible:] for word in request.until):
                    writing.legs += 1
                    writing.start = len(sample.tokens)
                if writing.legs < request.legs and len(sample.tokens) - sample.appended < request.max_new_tokens:
                    return False
                sample.finish = "until" if writing.legs >= request.legs else "length"
        else:
            sample.finish = inner.finish
        sample.text = self._text(sample.tokens[: sample.appended]) + text
        return True

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)) if tokens else ""
