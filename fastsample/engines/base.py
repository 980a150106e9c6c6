"""What an engine is asked for, what becomes of it, and what every engine can do. Needs no torch, no transformers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeGuard

from ..token_stats import MeanStats, PromptStats, TokenStats, TopTokens
from .penalties import NO_PENALTIES, Penalties

UNTOLD = -1  # in place of a token id that an engine does not tell: the token counts all the same


class Parked(Protocol):
    """What an engine has kept of a text that it has read or written: it can be continued, any number of times.

    Made by an engine that parks, for that engine alone; nobody else looks inside. Kept until it is released.
    """

    @property
    def length(self) -> int:
        """The token ids that it covers, from the beginning of the prompt."""
        ...


class Matcher(Protocol):
    """Where a text stands in a grammar, as xgrammar.GrammarMatcher and llguidance's matchers for it do it."""

    def accept_token(self, token: int, /) -> Any:
        """Go on by one token, which was drawn; False where the grammar does not take it."""
        ...

    def fill_next_token_bitmask(self, bitmask: Any, index: int, /) -> Any:
        """Write what may come next into row `index` of bitmask [B, ceil(V / 32)] int32: a bit that is set allows."""
        ...


@dataclass(frozen=True)
class Request:
    """One sample to be written.

    prompt:           token ids, at least one; a list or a tensor becomes a tuple; equal prompts share one prefix
    temperature ... min_p: as in `fastsample.sample`
    seed, stream:     name the experiment and the sample; with (model, prompt, temperature, filters) they fix the text;
                      stream None = the request's number among those that its engine was given
    max_new_tokens:   the sample ends with finish "length" there, or where the model's context ends
    min_new_tokens:   EOS is forbidden and stop strings are not looked for before
    stop:             strings that end the sample; neither they nor what follows them is in the text
    eos:              token ids that end the sample; None = the model's own, () = none
    penalties:        for tokens that prompt and sample have, and biases; what earlier legs wrote counts as prompt
    logits_processor: called with [1, L] ids and [1, V] scores of this sample alone; returns the scores to draw from,
                      to which the penalties are applied
    grammar:          makes what follows this sample's text and says which tokens may come next: called once for each
                      sample, it returns a `Matcher`
    key:              the caller's own name for the request, passed through
    top_logprobs:     tell so many of the likeliest tokens of every step: Sample.tops
    prompt_logprobs:  tell what the model says of the prompt's own tokens, with as many of the likeliest of each:
                      Sample.prompt_stats

    A text may be written leg by leg, by an engine that parks:
    after:            continue this parked text; `prompt` still holds all ids so far, after.length of them
    append:           token ids that are put behind the prompt first, nothing drawn; the first of the sample's tokens
    until:            strings that end the leg, behind the token that completes one: finish "until". A string counts
                      from the leg's first visible character on; appended tokens are passed by
    until_ids:        token ids that end the leg and are not kept: finish "until", Sample.ended_by
    legs:             the sample ends at so many of these ends, 1 for the first; an until-id ends it at once
    park:             keep what was computed for it: Sample.parked
    layer:            keep the hidden state behind this decoder layer, 1, 2, ..., at its last token: Sample.state
    """

    prompt: tuple[int, ...]
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stream: int | None = None
    max_new_tokens: int = 256
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    eos: tuple[int, ...] | None = None
    penalties: Penalties = NO_PENALTIES
    logits_processor: Callable[[Any, Any], Any] | None = None
    grammar: Callable[[], Matcher] | None = None
    key: Hashable = None
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    after: Parked | None = None
    append: tuple[int, ...] = ()
    until: tuple[str, ...] = ()
    until_ids: tuple[int, ...] = ()
    legs: int = 1
    park: bool = False
    layer: int | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "append"):
            if not isinstance(getattr(self, name), tuple):
                object.__setattr__(self, name, _ids(name, getattr(self, name)))


def numbered(requests: Iterable[Request], first: int = 0) -> list[Request]:
    """The requests, those without a stream with their number as it: first, first + 1, ... in order."""
    return [r if r.stream is not None else replace(r, stream=first + n) for n, r in enumerate(requests)]


def check_untold(request: Request) -> None:
    """For an engine whose `Traits.tops` is False: raise ValueError for a request that asks for the likeliest tokens."""
    if request.top_logprobs or request.prompt_logprobs:
        raise ValueError(
            "top_logprobs and prompt_logprobs are told by a LocalEngine alone; leave them out, or choose it"
        )


def _ids(name: str, given: Any) -> tuple[int, ...]:
    """Token ids as a tuple; raises TypeError for what is none."""
    listed = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(listed, str | bytes) or not isinstance(listed, Sequence):
        raise TypeError(f"{name} must be token ids, got {type(given).__name__}; call the tokenizer on a text first")
    if len(listed) == 1 and isinstance(listed[0], Sequence) and not isinstance(listed[0], str | bytes):
        listed = listed[0]  # what a tokenizer returns for a batch of one
    return tuple(listed)


@dataclass(eq=False)
class Sample:
    """A request while it is written, and afterwards.

    tokens:   token ids, appended ones first, the EOS that ended it included; UNTOLD where an engine tells none
    text:     the decoded text; without EOS and without the stop string that ended it
    finish:   None while it is written, then "eos", "stop", "until", "length", "cancelled" or "failed"
    stats:    of each token; NO_STATS of the appended ones
    tops:     the likeliest tokens in place of each token, where request.top_logprobs asks for them; else empty
    prompt_stats: of the prompt's tokens, where request.prompt_logprobs asks for them
    error:    why it failed, in one sentence; the samples beside it go on
    appended: so many of the tokens were put there and not drawn
    ended_by: the until-id that was drawn and ended it; it is not among the tokens
    parked:   the prompt and these tokens, without EOS, to be continued; None where nothing was kept
    state:    [hidden], where request.layer asks for it: behind that layer at the last token that is no EOS; None where
              nothing was drawn before it ended
    prompt_tokens: of the prompt by the engine's own count; None where that is the length of request.prompt
    """

    request: Request
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish: str | None = None
    stats: list[TokenStats] = field(default_factory=list)
    tops: list[TopTokens] = field(default_factory=list)
    prompt_stats: PromptStats | None = None
    error: str | None = None
    appended: int = 0
    ended_by: int | None = None
    parked: Parked | None = None
    state: Any = None
    prompt_tokens: int | None = None

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Its tokens, or none at all where an engine did not tell every one."""
        return () if UNTOLD in self.tokens else tuple(self.tokens)

    @property
    def logprobs(self) -> list[float]:
        """Of each token under the distribution that it was drawn from; nats."""
        return [t.logprob for t in self.stats]

    @property
    def means(self) -> MeanStats:
        """The means over the tokens that were drawn."""
        return MeanStats.of(self.stats[self.appended :])


@dataclass(frozen=True)
class Traits:
    """What an engine is, as far as results depend on it: part of a run's settings.

    name:      shared-prefix, expanded-cache, recompute, ...
    model:     what it says that it serves
    draws:     "fastsample" (equal tokens for equal logits), "seeded" or "free"
    certainty: "full" (self-certainty of every token), "top20" (of the twenty likeliest) or "none"
    cancels:   what really stops when it is asked to: "sample", "group" or "none"
    reason:    why it is slower than it could be and what that costs, in one sentence; None where it is not
    parks:     whether it is a `ParkingEngine`
    states:    whether it gives hidden states, `Request.layer`
    tops:      whether it tells the likeliest tokens, `Request.top_logprobs` and `Request.prompt_logprobs`
    token_ids: whether prompts are token ids of the model, and a sample's tokens its real ids
    """

    name: str
    model: str
    draws: str = "fastsample"
    certainty: str = "full"
    cancels: str = "sample"
    reason: str | None = None
    parks: bool = False
    states: bool = False
    tops: bool = False
    token_ids: bool = True


class Engine(Protocol):
    """Writes samples; called by one thread.

    slots:          the number of samples that it wants at once; the caller keeps so many submitted
    steps:          forward passes so far, or rounds of news where passes cannot be seen
    prefill_tokens: prompt tokens read so far
    """

    slots: int
    steps: int
    prefill_tokens: int

    @property
    def traits(self) -> Traits:
        """What it is."""
        ...

    @property
    def waiting(self) -> Sequence[Sample]:
        """Samples that were submitted and are not being written yet."""
        ...

    @property
    def running(self) -> Sequence[Sample]:
        """Samples that are being written."""
        ...

    def submit(self, requests: Iterable[Request]) -> list[Sample]:
        """Queue the requests, in order; returns their samples at once. Nothing is queued if one of them is refused."""
        ...

    def cancel(self, samples: Iterable[Sample]) -> None:
        """End samples at once; finished ones are left as they are."""
        ...

    def step(self) -> list[Sample]:
        """Go on by one forward pass, or until there is news; returns the samples that ended."""
        ...


class Runs:
    """What an engine can do for having `waiting`, `running` and `step`."""

    @property
    def is_idle(self: Engine) -> bool:
        """Whether nothing is left to be written."""
        return not self.waiting and not self.running

    def run(self: Engine) -> list[Sample]:
        """Step until nothing is left; returns the samples in the order in which they ended."""
        ended = []
        while self.waiting or self.running:
            ended += self.step()
        return ended


class ParkingEngine(Engine, Protocol):
    """An engine that keeps what it has computed, so that a text is continued without being read again.

    It serves `after`, `append`, `until`, `until_ids`, `legs` and `park` of a request.
    """

    def release(self, parked: Iterable[Parked]) -> None:
        """Let go of their memory; one that is released already is left as it is.

        A released one that is asked for again is a ValueError: read once more, it would round differently.
        """
        ...

    def read(self, parked: Parked, tokens: Sequence[int]) -> list[float]:
        """The log-probability of each of these tokens behind a parked text, in nats, nothing drawn; `parked` stays."""
        ...

    def cut(self, parked: Parked, kept: int) -> Parked:
        """The first `kept` token ids of a parked text, parked for themselves; `parked` stays as it is."""
        ...


def is_parking(engine: Engine) -> TypeGuard[ParkingEngine]:
    """Whether the engine parks, for whoever is about to call what only such an engine has."""
    return engine.traits.parks
