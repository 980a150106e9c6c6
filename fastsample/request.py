"""What a generator is asked for, and what becomes of it: a request and its sample."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LogitsProcessorList


@dataclass(frozen=True)
class Request:
    """One sample to be written.

    prompt:           token ids, at least one; requests with equal prompts share one prefix
    temperature ... min_p: as in `fastsample.sample`
    seed, stream:     name the experiment and the sample; with (model, prompt, temperature, filters) they fix the text
    max_new_tokens:   the sample ends with finish "length" there, or where the model's context ends
    min_new_tokens:   EOS is forbidden and stop strings are not looked for before
    stop:             strings that end the sample; neither they nor what follows them is in the text
    eos:              token ids that end the sample; None = the model's own, () = none
    logits_processor: transformers processors, called with [1, L] ids and [1, V] scores of this sample alone
    key:              the caller's own name for the request, passed through
    """

    prompt: tuple[int, ...]
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stream: int = 0
    max_new_tokens: int = 256
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    eos: tuple[int, ...] | None = None
    logits_processor: LogitsProcessorList | None = None
    key: Hashable = None


@dataclass(eq=False)
class Sample:
    """A request while it is written, and afterwards.

    tokens:   token ids, the EOS that ended it included
    text:     the decoded text; without EOS and without the stop string that ended it
    finish:   None while it is written, then "eos", "stop", "length" or "cancelled"
    logprobs: of each token under the distribution that it was drawn from; nats
    raw_logprobs, entropies, self_certainties: of each token under the model's own row, temperature 1; nats
    """

    request: Request
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish: str | None = None
    logprobs: list[float] = field(default_factory=list)
    raw_logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    self_certainties: list[float] = field(default_factory=list)
