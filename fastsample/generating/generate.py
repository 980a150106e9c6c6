"""One call for many samples of many prompts: each prompt is read once, all samples share one batch."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..engines.base import Engine, Matcher, Request, Sample
from ..engines.local.engine import LocalEngine
from ..engines.penalties import Penalties
from ..sampling.api import named_or_fresh
from ..strategies.plan import stream_of
from .batch import Batch
from .prompts import prompts_of

OnSample = Callable[[Sample], None]


class Samples:
    """Samples as they end, in a `for` or an `async for`: in the order in which they end, not in that of the prompts.

    prompts: the token ids of each; all: every sample, those of a prompt side by side, written or not
    A sample's `request.key` is (number of its prompt, its own number 0 ... n-1). Whoever leaves the loop early ends
    the others: `close` does it at once.
    """

    def __init__(
        self, engine: Engine, prompts: list[tuple[int, ...]], requests: list[list[Request]], seed: int, n: int
    ) -> None:
        self.engine, self.prompts, self.seed, self.n = engine, prompts, seed, n
        self.all: list[Sample] = []
        number = 0
        try:
            for number, mine in enumerate(requests):  # noqa: B007
                self.all += engine.submit(mine)
        except (ValueError, TypeError) as error:
            self.close()
            raise type(error)(f"prompt {number}: {error}") from None

    def __iter__(self) -> Iterator[Sample]:
        try:
            while not self._is_done():
                yield from self._step()
        finally:
            self.close()

    async def __aiter__(self) -> AsyncIterator[Sample]:
        try:
            while not self._is_done():
                step = asyncio.ensure_future(asyncio.to_thread(self._step))
                try:
                    ended = await asyncio.shield(step)
                except asyncio.CancelledError:
                    await asyncio.wait([step])  # the other thread is inside the engine: it is left to end its step
                    raise
                for s in ended:
                    yield s
        finally:
            self.close()

    def close(self) -> None:
        """End what is still being written."""
        self.engine.cancel([s for s in self.all if s.finish is None])

    def batch(self, pad: int = 0) -> Batch:
        """All of them as tensors, as far as they have come; pad: the padding token."""
        return Batch.of(self.prompts, self.all, self.n, self.seed, pad)

    def _is_done(self) -> bool:
        return all(s.finish is not None for s in self.all)

    def _step(self) -> list[Sample]:
        """The samples of ours that ended in one step of the engine, which may have others."""
        mine = {id(s) for s in self.all}
        return [s for s in self.engine.step() if id(s) in mine]


def generate_each(
    model: Any,
    tokenizer: Any,
    prompts: Any,
    *,
    n: int = 16,
    temperature: float | Sequence[float] = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    frequency_penalty: float = 0.0,
    presence_penalty: float = 0.0,
    logit_bias: Mapping[int, float] | None = None,
    grammar: Callable[[], Matcher] | None = None,
    max_new_tokens: int = 256,
    min_new_tokens: int = 0,
    stop: Sequence[str] = (),
    eos: Sequence[int] | None = None,
    top_logprobs: int = 0,
    prompt_logprobs: bool = False,
    seed: int | None = None,
    slots: int = 64,
    prepack: bool = False,
    engine: Engine | None = None,
) -> Samples:
    """As `generate`, and each sample is handed out as soon as it has ended: `for sample in generate_each(...)`.

    returns: `Samples`, for `for` and for `async for`; arguments and errors as in `generate`
    """
    ids = prompts_of(tokenizer, prompts)
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}; it is the number of samples of each prompt")
    temperatures = [float(t) for t in temperature] if isinstance(temperature, Sequence) else [temperature] * n
    if len(temperatures) != n:
        raise ValueError(
            f"temperature must be one number or one for each of the n = {n} samples of a prompt, got "
            f"{len(temperatures)}; name n as well"
        )
    if isinstance(stop, str):
        stop = (stop,)
    biases: Any = logit_bias  # made pairs there
    penalties = Penalties(repetition_penalty, frequency_penalty, presence_penalty, biases)
    seed = named_or_fresh(seed)
    if engine is None:
        engine = LocalEngine(model, tokenizer, slots=slots, prepack=prepack)
    earlier: Counter[tuple[tuple[int, ...], float]] = Counter()  # a prompt that is asked again gets other samples

    def request(number: int, k: int) -> Request:
        prompt, t = ids[number], temperatures[k]
        earlier[prompt, t] += 1
        return Request(
            prompt,
            temperature=t,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            penalties=penalties,
            grammar=grammar,
            seed=seed,
            stream=stream_of(prompt, t, earlier[prompt, t] - 1),
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            stop=tuple(stop),
            eos=None if eos is None else tuple(eos),
            top_logprobs=top_logprobs,
            prompt_logprobs=prompt_logprobs,
            key=(number, k),
        )

    requests = [[request(number, k) for k in range(n)] for number in range(len(ids))]
    return Samples(engine, ids, requests, seed, n)


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Any,
    *,
    n: int = 16,
    temperature: float | Sequence[float] = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    frequency_penalty: float = 0.0,
    presence_penalty: float = 0.0,
    logit_bias: Mapping[int, float] | None = None,
    grammar: Callable[[], Matcher] | None = None,
    max_new_tokens: int = 256,
    min_new_tokens: int = 0,
    stop: Sequence[str] = (),
    eos: Sequence[int] | None = None,
    top_logprobs: int = 0,
    prompt_logprobs: bool = False,
    seed: int | None = None,
    slots: int = 64,
    prepack: bool = False,
    engine: Engine | None = None,
    progress: bool | None = None,
    on_sample: OnSample | None = None,
) -> Batch:
    """Write n samples of each prompt, with the log-probability of every token.

    prompts:     a text, a chat (a list of {"role": ..., "content": ...}), token ids, or a list of these; or what a
                 tokenizer returns, {"input_ids": [P, L], "attention_mask": [P, L]}. A text is read as it stands; only a
                 chat is put into the tokenizer's template
    n:           samples of each prompt
    temperature: one number, or one for each of the n samples
    top_k, top_p, min_p: as in `sample`
    repetition_penalty, frequency_penalty, presence_penalty, logit_bias: as in `Edits`, of every sample's own tokens
    grammar:     a function that makes a matcher for a sample, such as `lambda: xgrammar.GrammarMatcher(compiled)`: the
                 samples are texts of that grammar
    max_new_tokens, min_new_tokens, stop, eos: as in `engines.base.Request`
    top_logprobs: tell so many of the likeliest tokens of every step, from the same forward pass: `Batch.top_ids`
    prompt_logprobs: tell the log-probabilities of the prompt's own tokens too, and as many of the likeliest of each,
                 from the pass that reads the prompt: `Batch.prompt_logprobs`. A block of the prompt's logits is held at
                 once, not all of them; the first token may round differently than without
    seed:        the same seed gives the same samples, whatever other prompts are beside; None = a fresh one
    slots:       the largest number of samples written at once; prepack: see `LocalEngine`
    engine:      what writes; None makes a `LocalEngine` of the model. One that is used again sees new weights
    progress:    a bar on standard error; None = where that is a terminal
    on_sample:   called with every `Sample` as it ends; its `request.key` is (number of the prompt, 0 ... n-1)

    returns: a `Batch`, P x n rows; a sample that failed says why in `errors`, the others are whole
    raises:  ValueError or TypeError for a prompt or a setting that cannot be served, before anything is written
    """
    samples = generate_each(
        model,
        tokenizer,
        prompts,
        n=n,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
        logit_bias=logit_bias,
        grammar=grammar,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        stop=stop,
        eos=eos,
        top_logprobs=top_logprobs,
        prompt_logprobs=prompt_logprobs,
        seed=seed,
        slots=slots,
        prepack=prepack,
        engine=engine,
    )
    is_shown = sys.stderr.isatty() if progress is None else progress
    with _bar(len(samples.all)) if is_shown else _nothing() as advance:
        for s in samples:
            advance(s)
            if on_sample is not None:
                on_sample(s)
    pad = getattr(tokenizer, "pad_token_id", None)
    return samples.batch(0 if pad is None else pad)


@contextmanager
def _nothing() -> Iterator[OnSample]:
    yield lambda sample: None


@contextmanager
def _bar(total: int) -> Iterator[OnSample]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = [
        TextColumn("samples"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    ]
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task, tokens = shown.add_task("", total=total), 0

        def advance(sample: Sample) -> None:
            nonlocal tokens
            tokens += len(sample.tokens)
            shown.update(task, advance=1, description=f"{tokens:,} tokens")

        yield advance
