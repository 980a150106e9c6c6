"""Many samples of one prompt in one batch: prefill once, step all rows, retire what is finished, refill from the queue.

The text of a sample is fixed by (model, prompt, temperature and filters, seed, stream): the randomness of a token comes
from (seed, stream, position), where position is the token's index in prompt + sample, never from the row or the batch.
The model's own arithmetic may still round a row differently in another batch, and so turn a draw that stands on the
edge. On the CPU it does not, in float32 and bfloat16: a row's logits are the same bits in every batch of two rows or
more, and with `prepack=True` alone too (models without soft-capping and without a window shorter than the text).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ... import fallback
from ...models.config import check_model, context_length, eos_of, vocabulary, weights_version
from ...models.forward import Prefix
from ...sampling.api import sample
from ...token_stats import TokenStats
from ...torch_ops import onednn
from ..base import Request, Sample, Traits, numbered
from ..checks import check_request
from .batch import RawRow, Row, columns_of, edit_all, first_logits, is_edited, mark_invalid
from .detokenizer import Detokenizer
from .memory import is_out_of_memory, memory_plan_of
from .runners import Runner
from .selection import runner_for, service_for


class LocalEngine:
    """Writes samples, up to `slots` of them at once, in one batch.

    model:         a decoder-only transformers model on one device
    tokenizer:     its tokenizer; None leaves `text` empty (and refuses stop strings)
    slots:         the largest number of rows in a forward pass
    prefill_block: a long prompt is read in blocks of so many tokens
    on_piece:      called with (sample, piece of its text) as text comes; the pieces of a sample add up to its text
    on_prefill:    called with (prompt, tokens read, tokens of the prompt) while a prompt is read: after each block, and
                   before the first where there are several
    prepack:       on the CPU, keep a second copy of the linear layers' weights in the layout that is read fastest; a
                   row's logits are then the same bits, and so its text is the same, whatever the batch
    runner:        what does the forward passes; None = the best that can serve the model (`selection`)

    raises: ValueError or TypeError for a model or a request that cannot be served, before anything is started;
            MemoryError with the plan's numbers where memory does not suffice; RuntimeError where a second thread calls.
            A sample that cannot go on (its processor raises, its logits hold a NaN) ends as "failed", alone.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        slots: int = 64,
        prefill_block: int = 512,
        on_piece: Callable[[Sample, str], None] | None = None,
        on_prefill: Callable[[tuple[int, ...], int, int], None] | None = None,
        prepack: bool = False,
        runner: Runner | None = None,
    ) -> None:
        check_model(model)
        for name, value in (("slots", slots), ("prefill_block", prefill_block)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.model = model
        self.tokenizer = tokenizer
        self.slots = slots
        self.prefill_block = prefill_block
        self.on_piece = on_piece
        self.on_prefill = on_prefill
        self.prepack = prepack
        self.runner = runner_for(model, prepack=prepack) if runner is None else runner
        reason = service_for(model).reason if runner is None else None
        self.traits = Traits(self.runner.name, str(getattr(model, "name_or_path", "")), reason=reason)
        if prepack and onednn.why_not(model) is None and not onednn.rounds_alike(model.dtype):
            fallback.warn(
                "prepack promises the same bits in any batch, and this torch rounds a row differently in small ones: "
                "a text may differ between batches where two tokens are nearly tied; torch 2.13 does not"
            )
        self.context = context_length(model)
        self.vocabulary = vocabulary(model)
        self.steps = 0
        self.prefill_tokens = 0
        self.waiting: list[Sample] = []
        self._submitted = 0
        self._rows: list[Row] = []
        self._prefixes: dict[tuple[int, ...], Prefix] = {}
        self._weights = weights_version(model)
        self._finished: list[Sample] = []  # of a step that failed after they had ended: told by the next one
        self._eos = eos_of(model, tokenizer)
        self._logits: Tensor | None = None  # of a forward pass whose draw failed: drawn from again by the next step
        self._columns: dict[str, Any] | None = None  # the sampling parameters of the rows; None after a change
        self._lock = threading.RLock()

    @property
    def running(self) -> list[Sample]:
        """Samples that have a row in the batch."""
        return [row.sample for row in self._rows]

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to be written."""
        return not self._rows and not self.waiting

    def submit(self, requests: Iterable[Request]) -> list[Sample]:
        """Queue the requests, in order; returns their samples at once. Nothing is queued if one of them is refused."""
        with self._one_thread():
            samples = [Sample(request) for request in numbered(requests, self._submitted)]
            for s in samples:
                check_request(s.request, self.context, self.tokenizer, self.vocabulary)
            self.waiting += samples
            self._submitted += len(samples)
            return samples

    def cancel(self, samples: Iterable[Sample]) -> None:
        """Take samples out of the batch or the queue at once; finished ones are left as they are."""
        with self._one_thread():
            unwanted = {id(s): s for s in samples if s.finish is None}
            self.waiting = [s for s in self.waiting if id(s) not in unwanted]
            for row in self._rows:
                if id(row.sample) in unwanted:
                    row.detokenizer.finish(row.sample.tokens)
                    row.sample.text = row.detokenizer.text
            for s in unwanted.values():
                s.finish = "cancelled"
            self._retire()

    def step(self) -> list[Sample]:
        """One forward pass for all rows, after new rows took the free slots and drew their first token.

        returns: the samples that it finished
        """
        with self._one_thread():
            return self._step()

    def _step(self) -> list[Sample]:
        fresh = self._admit() if self._logits is None else []
        if fresh:
            try:
                self._draw(fresh, *first_logits(fresh))
            except BaseException:
                self._put_back(fresh)
                raise
        pieces = self._take_in(fresh)
        if self._rows:
            if self._logits is None:
                last = [row.sample.tokens[-1] for row in self._rows]
                with self._memory_explained():
                    self._logits = self.runner.step(torch.tensor(last, device=self.runner.device))
                self.steps += 1
            self._draw(self._rows, self._logits, None)
            self._logits = None
            pieces += self._take_in(self._rows)
        finished, self._finished = self._finished, []
        if self.on_piece is not None:
            for s, piece in pieces:
                self.on_piece(s, piece)
        return finished

    def run(self) -> list[Sample]:
        """Step until nothing is left; returns the samples in the order in which they finished."""
        finished = []
        while not self.is_idle:
            finished += self.step()
        return finished

    def refresh(self) -> None:
        """Forget what was read and packed with the model's weights, for changes that torch does not count.

        Needed after writes through `.data`, and to weights that were loaded in inference mode; all others are seen.
        raises: RuntimeError while samples are being written
        """
        with self._one_thread():
            if self._rows:
                raise RuntimeError(
                    f"refresh needs an engine that writes nothing, got {len(self._rows)} "
                    f"sample{'s' * (len(self._rows) > 1)} in the batch; run or cancel them first"
                )
            self._prefixes = {}
            kind: Any = type(self.runner)
            self.runner = kind(self.model, prepack=self.prepack)

    def _admit(self) -> list[Row]:
        free = self.slots - len(self._rows)
        # A fork of its own for every freed slot would cost an expanded cache one forward pass a row.
        if not self.waiting or (not self.runner.is_shared and self._rows and free < max(1, self.slots // 4)):
            return []
        admitted = self.waiting[:free]
        weights = weights_version(self.model)
        if weights != self._weights:  # a prompt that was read with other weights is read again
            self._prefixes, self._weights = {}, weights
        wanted = {s.request.prompt for s in self.waiting} | {r.sample.request.prompt for r in self._rows}
        self._prefixes = {p: prefix for p, prefix in self._prefixes.items() if p in wanted}
        for s in admitted:
            prompt = s.request.prompt
            if prompt not in self._prefixes:
                progress = None if self.on_prefill is None else partial(self.on_prefill, prompt)
                with self._memory_explained():
                    self._prefixes[prompt] = self.runner.prefill(prompt, self.prefill_block, progress)
                self.prefill_tokens += len(prompt)
        fresh = []
        try:
            for prompt in dict.fromkeys(s.request.prompt for s in admitted):
                joining = [s for s in admitted if s.request.prompt == prompt]
                with self._memory_explained():
                    self.runner.add(self._prefixes[prompt], len(joining))
                fresh += [self._row(s) for s in joining]
        except BaseException:
            self.runner.keep(range(len(self._rows)))
            raise
        self.waiting = self.waiting[len(admitted) :]
        self._rows += fresh
        self._columns = None
        return fresh

    def _put_back(self, fresh: Sequence[Row]) -> None:
        """Undo an admission whose first draw failed: the samples wait again, in front."""
        self._rows = self._rows[: len(self._rows) - len(fresh)]
        self.runner.keep(range(len(self._rows)))
        self.waiting = [row.sample for row in fresh] + self.waiting
        self._columns = None

    @contextmanager
    def _one_thread(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(
                "an engine serves one thread at a time, and another thread is inside this one; "
                "give each thread an engine of its own, they may share the model"
            )
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _memory_explained(self) -> Iterator[None]:
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            asked = [*self.running, *self.waiting[: self.slots - len(self._rows)]]
            plan = memory_plan_of(
                self.model,
                prompt_tokens=max(len(s.request.prompt) for s in asked),
                samples=len(asked),
                max_new_tokens=max(s.request.max_new_tokens for s in asked),
                packed=onednn.packed_bytes(self.model) if self.prepack else 0,
            )
            raise MemoryError(
                f"memory must hold the batch, got {plan.sentence()}; lower slots or the samples"
            ) from error

    def _row(self, s: Sample) -> Row:
        request = s.request
        eos = self._eos if request.eos is None else frozenset(request.eos)
        limit = min(request.max_new_tokens, self.context - len(request.prompt))
        return Row(s, self._prefixes[request.prompt], Detokenizer(self.tokenizer, request.stop), eos, limit)

    def _draw(self, rows: Sequence[Row], logits: Tensor, indices: Tensor | None) -> None:
        """Append a token and its statistics to every row; row b reads logits[b] or logits[indices[b]] of [N, V]."""
        raw: dict[int, RawRow] = {}
        if any(is_edited(row.sample) for row in rows):
            (logits, raw), indices = edit_all(rows, logits, indices), None
        if self._columns is None or len(rows) != len(self._rows):
            columns = columns_of(rows, logits.device)
            if len(rows) == len(self._rows):
                self._columns = columns
        else:
            columns = self._columns
        try:
            tokens, stats = sample(logits, indices=indices, return_stats=True, **columns)
        except ValueError:  # rows without a valid logit, on a CPU; elsewhere their token is -1
            logits, indices = mark_invalid(rows, logits, indices)
            tokens, stats = sample(logits, indices=indices, return_stats=True, **columns)
        columns["position"] += 1
        chosen = tokens.tolist()
        if min(chosen) < 0:
            mark_invalid(rows, logits, indices)
        columns_of_stats = (column.tolist() for column in stats[: len(TokenStats._fields)])
        drawn = [TokenStats(*values) for values in zip(*columns_of_stats)]
        for b, before in raw.items():
            drawn[b] = before.stats_of(chosen[b], drawn[b].logprob)
        for row, token, token_stats in zip(rows, chosen, drawn):
            if row.failure is None:
                row.sample.tokens.append(token)
                row.sample.stats.append(token_stats)

    def _take_in(self, rows: Sequence[Row]) -> list[tuple[Sample, str]]:
        """Decode the newest token of each row and retire the rows that it finished; returns the pieces of text."""
        pieces, finished = [], []
        for row in rows:
            s, written = row.sample, len(row.sample.tokens)
            past_minimum = written >= s.request.min_new_tokens
            piece = ""
            if row.failure is not None:
                s.finish, s.error, piece = "failed", row.failure, row.detokenizer.finish(s.tokens)
            elif past_minimum and s.tokens[-1] in row.eos:
                s.finish, piece = "eos", row.detokenizer.finish(s.tokens[:-1])
            else:
                piece = row.detokenizer.advance(s.tokens, watch=past_minimum)
                if row.detokenizer.is_stopped:
                    s.finish = "stop"
                elif written >= row.limit:
                    s.finish = "length"
                    piece += row.detokenizer.finish(s.tokens)
            s.text = row.detokenizer.text
            if piece:
                pieces.append((s, piece))
            if s.finish is not None:
                finished.append(s)
        self._finished += finished
        if finished:
            self._retire()
        return pieces

    def _retire(self) -> None:
        """Drop the rows of finished samples; each hole is filled by the last row, so that few rows are copied."""
        order = list(range(len(self._rows)))
        for i in reversed(range(len(order))):
            if self._rows[i].sample.finish is not None:
                order[i] = order[-1]
                order.pop()
        if len(order) == len(self._rows):
            return
        self.runner.keep(order)
        if self._logits is not None:
            self._logits = self._logits[order]
        self._rows = [self._rows[i] for i in order]
        self._columns = None
