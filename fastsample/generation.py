"""Many samples of one prompt in one batch: prefill once, step all rows, retire what is finished, refill from the queue.

The text of a sample is fixed by (model, prompt, temperature and filters, seed, stream): the randomness of a token comes
from (seed, stream, position), where position is the token's index in prompt + sample, never from the row or the batch.
The model's own arithmetic may still round a row differently in another batch, and so turn a draw that stands on the
edge. On the CPU it does not, in float32 and bfloat16: a row's logits are the same bits in every batch of two rows or
more, and with `prepack=True` alone too (models without soft-capping and without a window shorter than the text).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .checks import check_model, check_request, context_length, eos_of
from .engine import Engine, Prefix
from .handshake import engine_for
from .linear import packed_bytes
from .memory import plan_for
from .request import Request, Sample
from .rows import Row, columns_of, edit, first_logits, is_edited, raw_row
from .sampling import sample
from .text import TextStream

__all__ = ["Generator", "Request", "Sample"]


class Generator:
    """Writes samples, up to `slots` of them at once, in one batch.

    model:         a decoder-only transformers model on one device
    tokenizer:     its tokenizer; None leaves `text` empty (and refuses stop strings)
    slots:         the largest number of rows in a forward pass
    prefill_block: a long prompt is read in blocks of so many tokens
    on_piece:      called with (sample, piece of its text) as text comes; the pieces of a sample add up to its text
    progress:      called with (prompt, tokens read, tokens of the prompt) while a prompt is read: after each block, and
                   before the first where there are several
    prepack:       on the CPU, keep a second copy of the linear layers' weights in the layout that is read fastest; a
                   row's logits are then the same bits, and so its text is the same, whatever the batch
    engine:        None = the best that can serve the model

    raises: ValueError or TypeError for a model or a request that cannot be served, before anything is started;
            MemoryError with the plan's numbers where memory does not suffice
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        slots: int = 64,
        prefill_block: int = 512,
        on_piece: Callable[[Sample, str], None] | None = None,
        progress: Callable[[tuple[int, ...], int, int], None] | None = None,
        prepack: bool = False,
        engine: Engine | None = None,
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
        self.progress = progress
        self.prepack = prepack
        self.engine = engine_for(model, prepack=prepack) if engine is None else engine
        self.context = context_length(model)
        self.steps = 0
        self.prefill_tokens = 0
        self.waiting: list[Sample] = []
        self._rows: list[Row] = []
        self._prefixes: dict[tuple[int, ...], Prefix] = {}
        self._eos = eos_of(model, tokenizer)
        self._logits: Tensor | None = None  # of a forward pass whose draw failed: drawn from again by the next step
        self._columns: dict[str, Any] | None = None  # the sampling parameters of the rows; None after a change

    @property
    def running(self) -> list[Sample]:
        return [row.sample for row in self._rows]

    @property
    def is_idle(self) -> bool:
        return not self._rows and not self.waiting

    def submit(self, requests: Iterable[Request]) -> list[Sample]:
        """Queue the requests, in order; returns their samples at once. Nothing is queued if one of them is refused."""
        samples = []
        for request in requests:
            check_request(request, self.context, self.tokenizer)
            samples.append(Sample(request))
        self.waiting += samples
        return samples

    def cancel(self, samples: Iterable[Sample]) -> None:
        """Take samples out of the batch or the queue at once; finished ones are left as they are."""
        unwanted = {id(s): s for s in samples if s.finish is None}
        self.waiting = [s for s in self.waiting if id(s) not in unwanted]
        for row in self._rows:
            if id(row.sample) in unwanted:
                row.stream.finish(row.sample.tokens)
                row.sample.text = row.stream.text
        for s in unwanted.values():
            s.finish = "cancelled"
        self._retire()

    def step(self) -> list[Sample]:
        """One forward pass for all rows, after new rows took the free slots and drew their first token.

        returns: the samples that it finished
        """
        fresh = self._admit() if self._logits is None else []
        if fresh:
            try:
                self._draw(fresh, *first_logits(fresh))
            except BaseException:
                self._put_back(fresh)
                raise
        pieces, finished = self._take_in(fresh)
        if self._rows:
            if self._logits is None:
                last = [row.sample.tokens[-1] for row in self._rows]
                with self._memory_explained():
                    self._logits = self.engine.step(torch.tensor(last, device=self.engine.device))
                self.steps += 1
            self._draw(self._rows, self._logits, None)
            self._logits = None
            more_pieces, more_finished = self._take_in(self._rows)
            pieces, finished = pieces + more_pieces, finished + more_finished
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

    def _admit(self) -> list[Row]:
        free = self.slots - len(self._rows)
        # A fork of its own for every freed slot would cost an expanded cache one forward pass a row.
        if not self.waiting or (not self.engine.is_shared and self._rows and free < max(1, self.slots // 4)):
            return []
        admitted = self.waiting[:free]
        wanted = {s.request.prompt for s in self.waiting} | {r.sample.request.prompt for r in self._rows}
        self._prefixes = {p: prefix for p, prefix in self._prefixes.items() if p in wanted}
        for s in admitted:
            prompt = s.request.prompt
            if prompt not in self._prefixes:
                progress = None if self.progress is None else partial(self.progress, prompt)
                with self._memory_explained():
                    self._prefixes[prompt] = self.engine.prefill(prompt, self.prefill_block, progress)
                self.prefill_tokens += len(prompt)
        fresh = []
        try:
            for prompt in dict.fromkeys(s.request.prompt for s in admitted):
                joining = [s for s in admitted if s.request.prompt == prompt]
                with self._memory_explained():
                    self.engine.add(self._prefixes[prompt], len(joining))
                fresh += [self._row(s) for s in joining]
        except BaseException:
            self.engine.keep(range(len(self._rows)))
            raise
        self.waiting = self.waiting[len(admitted) :]
        self._rows += fresh
        self._columns = None
        return fresh

    def _put_back(self, fresh: Sequence[Row]) -> None:
        """Undo an admission whose first draw failed: the samples wait again, in front."""
        self._rows = self._rows[: len(self._rows) - len(fresh)]
        self.engine.keep(range(len(self._rows)))
        self.waiting = [row.sample for row in fresh] + self.waiting
        self._columns = None

    @contextmanager
    def _memory_explained(self) -> Iterator[None]:
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            asked = [*self.running, *self.waiting[: self.slots - len(self._rows)]]
            plan = plan_for(
                self.model,
                prompt_tokens=max(len(s.request.prompt) for s in asked),
                samples=len(asked),
                max_new_tokens=max(s.request.max_new_tokens for s in asked),
                packed=packed_bytes(self.model) if self.prepack else 0,
            )
            raise MemoryError(
                f"memory must hold the batch, got {plan.sentence()}; lower slots or the samples"
            ) from error

    def _row(self, s: Sample) -> Row:
        request = s.request
        eos = self._eos if request.eos is None else frozenset(request.eos)
        limit = min(request.max_new_tokens, self.context - len(request.prompt))
        return Row(s, self._prefixes[request.prompt], TextStream(self.tokenizer, request.stop), eos, limit)

    def _draw(self, rows: Sequence[Row], logits: Tensor, indices: Tensor | None) -> None:
        """Append a token and its statistics to every row; row b reads logits[b] or logits[indices[b]] of [N, V]."""
        edited = [b for b, row in enumerate(rows) if is_edited(row.sample)]
        raw: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        if edited:
            # A copy of our own, and a plain tensor: what inference mode made cannot be written to outside of it.
            logits, indices = logits.clone() if indices is None else logits[indices].clone(), None
            for b in edited:
                raw[b] = raw_row(logits[b])
                logits[b] = edit(logits[b], rows[b])
        if self._columns is None or len(rows) != len(self._rows):
            columns = columns_of(rows, logits.device)
            if len(rows) == len(self._rows):
                self._columns = columns
        else:
            columns = self._columns
        tokens, stats = sample(logits, indices=indices, return_stats=True, **columns)
        columns["position"] += 1
        chosen = tokens.tolist()
        if min(chosen) < 0:
            raise ValueError(f"the model's logits hold a NaN, +inf or no finite value at row {chosen.index(-1)}")
        lists = [stats.logprob.tolist(), stats.raw_logprob.tolist(), stats.entropy.tolist()]
        lists.append(stats.self_certainty.tolist())
        for b, (log_p, entropy, certainty) in raw.items():
            lists[1][b], lists[2][b], lists[3][b] = float(log_p[chosen[b]]), float(entropy), float(certainty)
        for row, token, logprob, raw_logprob, entropy_, certainty_ in zip(rows, chosen, *lists):
            s = row.sample
            s.tokens.append(token)
            s.logprobs.append(logprob)
            s.raw_logprobs.append(raw_logprob)
            s.entropies.append(entropy_)
            s.self_certainties.append(certainty_)

    def _take_in(self, rows: Sequence[Row]) -> tuple[list[tuple[Sample, str]], list[Sample]]:
        """Decode the newest token of each row and retire the rows that it finished; returns pieces and samples."""
        pieces, finished = [], []
        for row in rows:
            s, written = row.sample, len(row.sample.tokens)
            past_minimum = written >= s.request.min_new_tokens
            piece = ""
            if past_minimum and s.tokens[-1] in row.eos:
                s.finish, piece = "eos", row.stream.finish(s.tokens[:-1])
            else:
                piece = row.stream.advance(s.tokens, watch=past_minimum)
                if row.stream.is_stopped:
                    s.finish = "stop"
                elif written >= row.limit:
                    s.finish = "length"
                    piece += row.stream.finish(s.tokens)
            s.text = row.stream.text
            if piece:
                pieces.append((s, piece))
            if s.finish is not None:
                finished.append(s)
        if finished:
            self._retire()
        return pieces, finished

    def _retire(self) -> None:
        """Drop the rows of finished samples; each hole is filled by the last row, so that few rows are copied."""
        order = list(range(len(self._rows)))
        for i in reversed(range(len(order))):
            if self._rows[i].sample.finish is not None:
                order[i] = order[-1]
                order.pop()
        if len(order) == len(self._rows):
            return
        self.engine.keep(order)
        if self._logits is not None:
            self._logits = self._logits[order]
        self._rows = [self._rows[i] for i in order]
        self._columns = None
