"""Many samples of one prompt in one batch: prefill once, step all rows, retire what is finished, refill from the queue.

The text of a sample is fixed by (model, prompt, temperature and filters, seed, stream): the randomness of a token comes
from (seed, stream, position), where position is the token's index in prompt + sample, never from the row or the batch.
The model's own arithmetic may still round a row differently in another batch, and so turn a draw that stands on the
edge. On the CPU it does not, in float32 and bfloat16: a row's logits are the same bits in every batch of two rows or
more, and with `prepack=True` alone too (models without soft-capping and without a window shorter than the text).

A text may be written leg by leg: what a leg has computed is parked, and continued by any number of further requests,
each with its own stream. Positions go on counting, so that the same stream writes the text that one request would have.

Every call may be interrupted at any line and gone on after: what a step makes of the rows is worked out aside, noted in
one assignment, and written down from the note, again by the next call if need be.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...models.config import check_model, context_length, eos_of, vocabulary, weights_version
from ...models.forward import Prefix
from ...models.states import Pass, layer_of
from ...words import plural
from ..base import Parked, Request, Runs, Sample, Traits, numbered
from ..checks import check_ids, check_request
from .batch import Columns, Row, draw, first_logits, is_edited, unfinished
from .detokenizer import Detokenizer
from .grammar import Follower
from .legs import Delimiters
from .memory import memory_explained
from .one_thread import alone
from .outcome import Outcome, Refused, after_draw, appended, closed, gone
from .parked import KeptPath, path_of, prefix_after
from .prompts import Prompts, extended
from .runners import Runner
from .selection import runner_for, service_for, warn_of_rounding


class LocalEngine(Runs):
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
        name = str(getattr(model, "name_or_path", ""))
        self.traits = Traits(self.runner.name, name, reason=reason, parks=True, states=True, tops=True)
        if prepack:
            warn_of_rounding(model)
        self.context = context_length(model)
        self.vocabulary = vocabulary(model)
        self.steps = 0
        self.prefill_tokens = 0
        self.waiting: list[Sample] = []
        self._submitted = 0
        self._rows: list[Row] = []
        self._prompts = Prompts(model, self.runner)
        self._eos = eos_of(model, tokenizer)
        self._columns = Columns()
        self._pass: Pass | None = None  # whose tokens are still to be drawn
        self._finished: list[Sample] = []  # that a step is still to return
        self._pieces: list[tuple[Sample, str]] = []  # that are still to be told
        self._noted: tuple[Sequence[Outcome | Refused], dict[str, Any]] | None = None  # what is to be written down
        self._lock = threading.RLock()

    @property
    def running(self) -> list[Sample]:
        """Samples that have a row in the batch."""
        return [row.sample for row in self._rows]

    def submit(self, requests: Iterable[Request]) -> list[Sample]:
        """Queue the requests, in order; returns their samples at once. Nothing is queued if one of them is refused."""
        with alone(self._lock):
            self._settle()
            samples, weights = [], None
            for request in numbered(requests, self._submitted):
                check_request(request, self.context, self.tokenizer, self.vocabulary)
                if request.layer is not None:
                    layer_of(self.model, request.layer)
                if request.after is not None:
                    weights = weights or weights_version(self.model)  # once: it looks at every parameter
                    prefix_after(request, self.runner, weights)
                samples.append(Sample(request, appended=len(request.append)))
            vars(self).update(waiting=self.waiting + samples, _submitted=self._submitted + len(samples))
            return samples

    def cancel(self, samples: Iterable[Sample]) -> None:
        """Take samples out of the batch or the queue at once; finished ones are left as they are."""
        with alone(self._lock):
            self._settle()
            unwanted = {id(s): s for s in samples if s.finish is None}
            for row in self._rows:
                if id(row.sample) in unwanted:
                    gone(row).write()
            for s in unwanted.values():
                s.finish = "cancelled"
            self._tidy()

    def release(self, parked: Iterable[Parked]) -> None:
        """Let go of the memory of parked paths; one that is asked for again is then a ValueError."""
        with alone(self._lock):
            self._settle()
            for path in parked:
                path_of(path).release()

    def read(self, parked: Parked, tokens: Sequence[int]) -> list[float]:
        """The log-probability of each of these tokens behind a parked path, in nats, nothing drawn; `parked` stays.

        raises: ValueError for a released path or tokens beyond the context
        """
        with alone(self._lock):
            self._settle()
            check_ids("tokens", tokens, self.vocabulary)
            if parked.length + len(tokens) > self.context:
                raise ValueError(
                    f"tokens must end within the model's context: {self.context} tokens leave "
                    f"{self.context - parked.length} behind the path, got {len(tokens)}; shorten them"
                )
            prefix = path_of(parked).prefix(self.runner, weights_version(self.model))
            if not len(tokens):
                return []
            logits = self.runner.read(prefix, tokens).float().log_softmax(-1)
            return [float(logits[i, token]) for i, token in enumerate(tokens)]

    def cut(self, parked: Parked, kept: int) -> Parked:
        """The first ids of a parked path, parked for themselves; its `note` says where they had to be read again.

        raises: ValueError for a released path or a number of ids that it does not have
        """
        with alone(self._lock):
            self._settle()
            path = path_of(parked)
            if not 1 <= kept <= path.length:
                raise ValueError(f"kept must be in [1, {path.length}], the ids of the parked path, got {kept}")
            weights, ids = weights_version(self.model), path.ids[:kept]
            prefix, note = path.prefix(self.runner, weights), None
            if kept < path.length:
                prefix, note = self.runner.cut(prefix, ids, self.prefill_block)
            return KeptPath(self.runner, prefix, ids, weights, note)

    def step(self) -> list[Sample]:
        """One forward pass for all rows, after new rows took the free slots and drew their first token.

        returns: the samples that it finished
        """
        with alone(self._lock):
            self._settle()
            with memory_explained(
                self.model, lambda: [*self.running, *self.waiting][: self.slots], is_packed=self.prepack
            ):
                if self._pass is None:
                    self._admit()
                if self._rows:
                    self._go_on()
            while self.on_piece is not None and self._pieces:
                self.on_piece(*self._pieces.pop(0))
            finished, self._finished, self._pieces = self._finished, [], []
            return finished

    def refresh(self) -> None:
        """Forget what was read and packed with the model's weights, for changes that torch does not count.

        Needed after writes through `.data`, and to weights that were loaded in inference mode; all others are seen.
        Parked paths cannot be continued afterwards.
        raises: RuntimeError while samples are being written
        """
        with alone(self._lock):
            self._settle()
            if self._rows:
                running = plural(len(self._rows), "sample")
                raise RuntimeError(
                    f"refresh needs an engine that writes nothing, got {running} in the batch; run or cancel them first"
                )
            kind: Any = type(self.runner)
            runner = kind(self.model, prepack=self.prepack)
            vars(self).update(runner=runner, _prompts=Prompts(self.model, runner))

    def _go_on(self) -> None:
        """A forward pass, unless its logits are there already, and what becomes of every row."""
        rows, last = self._rows, self._pass
        if last is None:
            tokens = torch.tensor([row.sample.tokens[-1] for row in rows])
            lengths = [row.position - 1 - row.prefix.length for row in rows]
            is_plain = not any(row.ending is not None or is_edited(row) for row in rows)
            columns = self._columns.of(rows, self.runner.device) if is_plain else None
            logits = self.runner.step(tokens, lengths, columns)
            last = Pass(logits, self.runner.states, self.runner.told)
            vars(self).update(_pass=last, steps=self.steps + 1)
        logits = last.logits
        writing = [b for b, row in enumerate(rows) if row.ending is None]
        closing = [b for b, row in enumerate(rows) if row.ending is not None]
        outcomes = [closed(rows[b], self._park(rows[b], b, logits)) for b in closing]
        if writing:
            indices = None if len(writing) == len(rows) else torch.tensor(writing, device=logits.device)
            drawn = draw([rows[b] for b in writing], logits, indices, self._columns, last.told)
            for b, token in zip(writing, drawn):
                outcomes.append(after_draw(rows[b], token))
                if outcomes[-1].is_kept_as_it_is:  # the token that ended it was not read, and is not to be
                    outcomes[-1].parked = self._park(rows[b], b, logits)
        for b, outcome in zip([*closing, *writing], outcomes):
            if outcome.finish is not None:
                outcome.state = last.state(rows[b].sample.request.layer, b)
        self._note(outcomes, _pass=None)

    def _admit(self) -> None:
        """Give free slots to those that wait, and draw the first token of each."""
        free = self.slots - len(self._rows)
        # A fork of its own for every freed slot would cost an expanded cache one forward pass a row.
        if not self.waiting or (not self.runner.is_shared and self._rows and free < max(1, self.slots // 4)):
            return
        admitted = self.waiting[:free]
        self._prompts.keep_only([*self.running, *self.waiting])
        bases = [(s, self._prompts.of(s, self.prefill_block, self.on_prefill)) for s in admitted]
        self.prefill_tokens = self._prompts.tokens
        refused = [base for _, base in bases if isinstance(base, Refused)]
        ready = [(s, base) for s, base in bases if isinstance(base, Prefix)]
        prefixes, passes = extended(self.runner, [(base, s.request.append) for s, base in ready])
        fresh: list[Row] = []
        try:
            for prefix in dict.fromkeys(prefixes):
                joining = [s for (s, _), p in zip(ready, prefixes) if p is prefix]
                self.runner.add(prefix, len(joining))
                fresh += [self._row(s, name, prefix) for s, name in zip(joining, self.runner.rows[-len(joining) :])]
            outcomes = self._begun(fresh) if fresh else []
        except BaseException:
            self._tidy()
            raise
        self._note(
            [*refused, *outcomes],
            _rows=self._rows + fresh,
            waiting=self.waiting[len(admitted) :],
            steps=self.steps + passes,
        )

    def _begun(self, fresh: Sequence[Row]) -> list[Outcome]:
        """The first token of new rows, behind what was appended to them."""
        beginnings = [appended(row) for row in fresh]
        for beginning in beginnings:
            beginning.write()
        drawn = draw(fresh, *first_logits([row.prefix for row in fresh]), self._columns)
        outcomes = [after_draw(row, token, b.piece) for row, token, b in zip(fresh, drawn, beginnings)]
        for row, o in zip(fresh, outcomes):
            if o.is_kept_as_it_is:
                o.parked = self._kept(row, row.prefix)
        return outcomes

    def _row(self, s: Sample, name: int, prefix: Prefix) -> Row:
        request = s.request
        if request.layer is not None:
            self.runner.watch(request.layer)
        told = prefix.prompt.told
        s.prompt_stats = told.first(request.top_logprobs) if told is not None and request.prompt_logprobs else None
        eos = self._eos if request.eos is None else frozenset(request.eos)
        limit = min(request.max_new_tokens, self.context - prefix.length)
        before = () if request.after is None else request.prompt[prefix.prompt.length :]
        detokenizer = Detokenizer(self.tokenizer, request.stop, before)
        follower = None if request.grammar is None else Follower(request.grammar)
        return Row(s, name, prefix, detokenizer, Delimiters(request.until, request.legs), eos, limit, follower)

    def _park(self, row: Row, place: int, logits: Tensor) -> KeptPath | None:
        if not row.sample.request.park:
            return None
        return self._kept(row, self.runner.park(place, row.prefix, logits[place]))

    def _kept(self, row: Row, prefix: Prefix) -> KeptPath:
        return KeptPath(self.runner, prefix, (*row.sample.request.prompt, *row.sample.tokens), self._prompts.weights)

    def _note(self, outcomes: Sequence[Outcome | Refused], **values: Any) -> None:
        """Note what is to become of rows and of the engine, in one assignment, and write it down."""
        finished = self._finished + [o.sample for o in outcomes if o.finish is not None]
        pieces = self._pieces + [(o.sample, o.piece) for o in outcomes if o.piece]
        self._noted = (outcomes, values | {"_finished": finished, "_pieces": pieces})
        self._settle()

    def _settle(self) -> None:
        """Write down what was noted, also by a call that was interrupted over it."""
        if self._noted is not None:
            outcomes, values = self._noted
            for outcome in outcomes:
                outcome.write()
            vars(self).update(values, _noted=None)
        self._tidy()

    def _tidy(self) -> None:
        """Drop the rows of finished samples, each hole filled by the last row, and what a call left half done."""
        if any(s.finish is not None for s in self.waiting):
            self.waiting = [s for s in self.waiting if s.finish is None]
        order = unfinished(self._rows)
        if len(order) < len(self._rows):
            last = None if self._pass is None else self._pass.rows(order)
            vars(self).update(_rows=[self._rows[i] for i in order], _pass=last)
        place = {name: i for i, name in enumerate(self.runner.rows)}
        wanted = [place[row.name] for row in self._rows]
        if wanted != list(range(len(place))):
            self.runner.keep(wanted)
