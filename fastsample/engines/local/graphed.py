"""The shared-prefix runner on a GPU: one CUDA graph is a step, with the draw and the counting of positions inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ... import fallback
from ...models.cache import SharedCache
from ...models.fixed import FixedCache, Sizes, storage_of
from ...models.forward import Forward
from ...sampling.api import sample
from ..columns import COLUMNS
from .shared import SharedPrefixRunner
from .told import Told, pack, unpack

FIRST_COLUMNS = 256  # of a tail's storage: each time it doubles, the graphs are made again


class GraphedRunner(SharedPrefixRunner):
    """Serves attention models on a GPU. A graph is made for a number of rows, rounded up to a power of two.

    Rows join, leave and grow, prompts change, and the graph stays. It is made again where the tails' storage grows, and
    given up, with a warning, for a model that cannot be captured. The storage is kept while no row is in it. On a CPU,
    where there are no graphs, the same step runs as it is.
    """

    def __init__(self, model: Any, *, prepack: bool = False) -> None:
        super().__init__(model, prepack=prepack)
        self._steps: dict[Sizes, FixedStep] = {}
        self._objection: str | None = None

    def watch(self, layer: int) -> None:
        """See `Runner`."""
        super().watch(layer)
        self._steps = {}

    def _advance(self, cache: SharedCache, tokens: Tensor, columns: Mapping[str, Tensor] | None) -> Tensor:
        step = None if self._objection is not None else self._step_for(cache)
        if step is None:
            return super()._advance(cache, tokens, columns)
        step.load(tokens.tolist(), columns)
        step.run()
        cache.advance(1)
        rows = len(cache.rows)
        self.states = {layer: states[:rows] for layer, states in step.states.items()}
        self.told = None if columns is None else step.told(rows)
        return step.logits[:rows]

    def _step_for(self, cache: SharedCache) -> FixedStep | None:
        """The step for these rows, captured; None where that cannot be, which is told once."""
        sizes = Sizes.of(cache)
        cache.reserve(sizes.rows, max(FIRST_COLUMNS, max(cache.lengths) + 1))
        model, storage = self.forward.twin.model, storage_of(cache)
        step = self._steps.get(sizes)
        if step is not None and step.is_of(cache, model):
            return step
        kept = {s: other for s, other in self._steps.items() if other.is_of(cache, model)}
        step = FixedStep(self.forward, cache, sizes, storage)
        if can_capture(self.device):
            try:
                step.capture()
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self._objection = str(error).splitlines()[0]
                fallback.warn(
                    f"{type(self.forward.model).__name__} is stepped without a CUDA graph: each of its kernels is "
                    f"launched by itself, which on a GPU may take several times as long; the reason: {self._objection}"
                )
                return None
        self._steps = {**kept, sizes: step}
        return step


def can_capture(device: torch.device) -> bool:
    """Whether there are graphs on this device: on a GPU."""
    return device.type == "cuda"


class FixedStep:
    """One step over tensors that stay where they are: read the tokens, draw the next ones, count on.

    logits: [R, V]; states: by watched layer, [R, hidden]; both of the last run, of which the batch's rows are the first
    """

    def __init__(
        self, forward: Forward, cache: SharedCache, sizes: Sizes, storage: list[tuple[Tensor, Tensor]]
    ) -> None:
        self.forward, self.shared, self.model, self._storage = forward, cache, forward.twin.model, storage
        self.cache = FixedCache(cache, sizes)
        device = self.cache.lengths.device
        # tokens, positions, lengths, and 1 for a row of the batch: one transfer sets them all
        self._state = torch.zeros(4, sizes.rows, dtype=torch.int64, device=device)
        self.tokens, self.positions, self.cache.lengths, self._alive = self._state
        self.columns = {name: torch.zeros(sizes.rows, dtype=dtype, device=device) for name, dtype in COLUMNS}
        self.columns["top_p"].fill_(1)
        self.logits = torch.empty(0)
        self._packed: Tensor | None = None
        self.states: dict[int, Tensor] = {}
        self._graph: torch.cuda.CUDAGraph | None = None
        self._names: tuple[int, ...] = ()  # of the rows that it knows
        self._known: list[list[int]] = []  # what `_state` holds of them, where that is known
        self._columns: Mapping[str, Tensor] | None = None  # what was copied into `columns`

    def is_of(self, cache: SharedCache, model: Any) -> bool:
        """Whether this cache, with its tails where they are now, and this model are what it works on."""
        now = storage_of(cache)
        return cache is self.shared and model is self.model and all(
            a is c and b is d for (a, b), (c, d) in zip(now, self._storage)
        )  # fmt: skip

    def load(self, tokens: Sequence[int], columns: Mapping[str, Tensor] | None) -> None:
        """Set what the device does not have already; in a step that follows another one, that is nothing."""
        names = tuple(row.name for row in self.shared.rows)
        if names != self._names:
            self.cache.look()
            self._names, self._known = names, []
        state = [list(tokens), self.shared.positions, self.shared.lengths]
        if state != self._known:
            rows, size = len(names), self._state.shape[1]
            padded = [values + [0] * (size - rows) for values in [*state, [1] * rows]]
            self._state.copy_(torch.tensor(padded))
            self._known = state
        if columns is not None and columns is not self._columns:
            for name, column in self.columns.items():
                column[: len(names)] = columns[name]
            self._columns = columns

    def run(self) -> None:
        """The step itself, by the graph where there is one."""
        self._known, state = [], self._known  # unknown, should it fail on the way
        if self._graph is None:
            self._run()
        else:
            self._graph.replay()
        if self._packed is not None:
            self._known = [[], *([n + 1 for n in values] for values in state[1:])]

    def told(self, rows: int) -> Told | None:
        """What was drawn; the step's one wait for the device. None where a row holds nothing to draw from, on a CPU."""
        if self._packed is None:
            return None
        found = unpack(self._packed[:, :rows])
        self._known[0] = [token for token, _ in found]
        return found

    def capture(self) -> None:
        """Make the graph; what the runs before it write is written again by the first step."""
        self._names = ()
        self._state.zero_()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run()
        self._graph = graph

    def _run(self) -> None:
        self.cache.begin()
        self.logits = self.forward.over_shared(self.tokens[:, None], self.cache, self.positions[:, None])
        self.states = self.forward.twin.watched.last()
        self._packed = None
        parameters: dict[str, Any] = dict(self.columns, position=self.positions + 1, return_stats=True)
        try:
            drawn, stats = sample(self.logits, **parameters)
        except ValueError:  # rows without a valid logit, on a CPU; elsewhere their token is -1
            return
        self._packed = pack(drawn, stats)
        self.tokens.copy_(drawn.clamp(min=0))
        self.positions += self._alive
        self.cache.lengths += self._alive
