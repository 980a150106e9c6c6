"""Our draw inside vLLM, by the door that it documents for logits processors.

    vllm serve MODEL --logits-processors fastsample.engines.vllm.draw:FastDraw
    SamplingParams(temperature=0, extra_args={"fs_temperature": 0.8, "fs_top_p": 0.9, "fs_seed": 7, "fs_stream": 11})

A token is drawn from the row as vLLM has it, after its own bans and biases, and its logit is set to the largest float
there is: vLLM, which was asked for greedy decoding, takes it. So its sampler sorts nothing, and the token is the one of
`fastsample.sample` for this seed and stream, at the token's place in prompt and text.

vLLM has two interfaces of this name, one for each of its model runners, and `FastDraw` is both. V1 tells which request
came to which row, and hands out lists that grow with the texts. V2 numbers requests by slots and keeps rows, slots and
positions on the device; nothing here waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...fallback import warn
from ...sampling.api import sample
from ...sampling.contract import FLT_MAX, STATUS, row_status
from ..columns import COLUMNS
from .asked import ITS_OWN, Asked, asked_in
from .versions import objection

try:
    from vllm.v1.sample.logits_processor import LogitsProcessor as OldBase
except ImportError:  # a release without its older model runner
    OldBase = object
try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as NewBase
except ImportError:  # a release without the newer one
    NewBase = object
BASES = tuple(base for base in (OldBase, NewBase) if base is not object)
if not BASES:
    raise ModuleNotFoundError("FastDraw draws inside vLLM, which is not installed; pip install vllm", name="vllm")
if (sentence := objection()) is not None:
    warn(sentence)

GREEDY = Asked(temperature=0.0)  # what is drawn for rows that did not ask: nothing is done with it
_log = logging.getLogger("vllm.fastsample")


@dataclass(eq=False)
class _Row:
    """A request of V1's batch: what it asked for, the tokens of its prompt, and vLLM's own list of those behind it."""

    asked: Asked
    prompt: int
    written: list[int]


class FastDraw(*BASES):  # type: ignore[misc]
    """See above. A request without one of the fields `fs_...` is left to vLLM.

    raises: ValueError, in `validate_params`, which vLLM answers with status 400: for a field that is none or out of
            range, and where vLLM's own temperature or penalties would work on what was drawn
    """

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse what could not be served as it was asked for, before it is queued."""
        if asked_in(sampling_params.extra_args) is None:
            return
        for name, value in ITS_OWN.items():
            if getattr(sampling_params, name) != value:
                raise ValueError(
                    f"{name} must be {value:g} where fastsample draws, got {getattr(sampling_params, name)}; "
                    "fs_temperature and its like are the draw's own"
                )

    def __init__(self, vllm_config: Any, place: Any, is_pin_memory: bool = False) -> None:
        """place: V1's device, or V2's state of its request slots"""
        self._rows: dict[int, _Row] = {}  # V1: by row
        self._columns: dict[str, Tensor] | None = None  # V1: of these rows in order
        self._has_told = False
        if hasattr(place, "max_num_reqs"):
            slots = place.max_num_reqs
            self._here = {name: torch.full((slots,), getattr(GREEDY, name), dtype=d) for name, d in COLUMNS}
            self._here["mine"] = torch.zeros(slots, dtype=torch.bool)
            self._there = {name: column.to(place.device) for name, column in self._here.items()}
            self._is_behind = False

    def is_argmax_invariant(self) -> bool:
        """No: greedy decoding takes what was drawn."""
        return False

    # --- V1 ---------------------------------------------------------------------------------------------------------

    def update_state(self, batch_update: Any) -> None:
        """Follow the requests through the batch: those that left, came and moved, in this order."""
        if batch_update is None:
            return
        self._columns = None
        for row in batch_update.removed:
            self._rows.pop(row, None)
        for row, params, prompt, written in batch_update.added:
            self._rows.pop(row, None)
            asked = asked_in(params.extra_args)
            if asked is not None:
                self._rows[row] = _Row(asked, len(prompt or ()), written)
        for source, target, direction in batch_update.moved:
            gone, there = self._rows.pop(source, None), self._rows.pop(target, None)
            if gone is not None:
                self._rows[target] = gone
            if there is not None and direction.name == "SWAP":
                self._rows[source] = there

    # --- V2 ---------------------------------------------------------------------------------------------------------

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Take a request into a slot; whether it is ours."""
        asked = asked_in(sampling_params.extra_args)
        for name, _ in COLUMNS:
            self._here[name][req_idx] = getattr(asked or GREEDY, name)
        self._here["mine"][req_idx] = asked is not None
        self._is_behind = True
        return asked is not None

    def apply_staged_writes(self) -> None:
        """Send what was staged to the device, once a step."""
        if self._is_behind:
            for name, column in self._here.items():
                self._there[name].copy_(column)
            self._is_behind = False

    # --- both -------------------------------------------------------------------------------------------------------

    def apply(self, logits: Tensor, ctx: Any = None) -> Tensor:
        """Draw for the rows that asked, in place; logits: [rows, V] float32, ctx: V2's layout of the batch."""
        if ctx is None:
            self._apply_v1(logits)
        elif bool(self._here["mine"][torch.from_numpy(ctx.idx_mapping_np).long()].any()):
            slots = ctx.expanded_idx_mapping.long()
            columns = {name: column[slots] for name, column in self._there.items()}
            is_mine = columns.pop("mine")
            tokens = self._drawn(logits, None, columns | {"position": ctx.pos.long() + 1})
            _put(logits, None, torch.where(is_mine, tokens, -1))
        return logits

    def _apply_v1(self, logits: Tensor) -> None:
        if not self._rows:
            return
        places = sorted(self._rows)
        rows = [self._rows[place] for place in places]
        if self._columns is None:
            self._columns = {
                name: torch.tensor([getattr(row.asked, name) for row in rows], dtype=dtype, device=logits.device)
                for name, dtype in COLUMNS
            }
        position = torch.tensor([row.prompt + len(row.written) for row in rows], device=logits.device)
        indices = None if len(rows) == len(logits) else torch.tensor(places, device=logits.device)
        tokens = self._drawn(logits, indices, self._columns | {"position": position})
        _put(logits, indices, tokens)

    def _drawn(self, logits: Tensor, indices: Tensor | None, columns: Mapping[str, Any]) -> Tensor:
        """A token a row; -1 where nothing can be drawn from it. One bad row must not end the others' engine."""
        try:
            return sample(logits, indices=indices, **columns)
        except ValueError:
            if logits.device.type != "cpu":
                raise
        rows = torch.arange(len(logits)) if indices is None else indices
        status = torch.tensor([row_status(logits[int(row)]) for row in rows])
        if not self._has_told:
            self._has_told = True
            _log.warning(
                "fastsample: a row %s: vLLM takes a token of its own for it, as for all such rows from here on",
                STATUS[int(status.max())],
            )
        fine = (status == 0).nonzero()[:, 0]
        tokens = torch.full((len(rows),), -1)
        tokens[fine] = sample(logits, indices=rows[fine], **_taken(columns, fine))
        return tokens


def _taken(columns: Mapping[str, Any], rows: Tensor) -> dict[str, Any]:
    return {name: column[rows] for name, column in columns.items()}


def _put(logits: Tensor, indices: Tensor | None, tokens: Tensor) -> None:
    """Raise each token above its row; rows of token -1 stay as they are."""
    rows = torch.arange(len(tokens), device=logits.device) if indices is None else indices
    places = tokens.clamp_min(0)
    logits[rows, places] = torch.where(tokens < 0, logits[rows, places], FLT_MAX)
