"""What a call of `sample` may be given, checked and normalised once; and the constants of the numerical contract.

Errors about what is drawn are raised here, by way of `values` and `edits`; those about `out` in `api` and about
`backend` in `dispatch`. The checks that need no value of a tensor (`Case.of`) trace through `torch.compile`; the ones
that look at values (`Case.check_values`) run where the values are at hand: on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .edits import EditColumns, Edits, allowed_of, check_edits, columns_of, edited
from .values import BOUNDS, DTYPES, IntParameter, Parameter, check_rows, dense, parameter_of, stream_of, tensor_of

CHUNK = 256  # tokens whose weights share one maximum
WEIGHT_BITS = 30  # a token's weight is an integer in [0, 2^30]
LOG2E = 1.4426950408889634
FLT_MIN = 2.0**-126
FLT_MAX = (2 - 2.0**-23) * 2.0**127
# Minimax polynomial of 2^f on [-1/2, 1/2], highest power first, relative error 1.1e-7; the last coefficient is 1.
POW2_COEFFICIENTS = tuple(
    float.fromhex(h)
    for h in ("0x1.5bb9e6p-10", "0x1.3cea74p-7", "0x1.c6b752p-5", "0x1.ebf9bcp-3", "0x1.62e42ap-1", "0x1p0")
)

STATUS = (
    "valid",
    "holds a NaN",
    "holds +inf",
    "has no finite logit",
    "has a parameter out of range",
)  # by status code; an invalid row's token is -1
LOGIT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Stats(NamedTuple):
    """What the pass over a row also knows. All [B]; within 1e-5 of float64, not bound to the bit."""

    logprob: Tensor  # float32: log-probability of the token under the distribution it was drawn from
    raw_logprob: Tensor  # float32: the same under softmax(logits), temperature 1, nothing filtered
    entropy: Tensor  # float32, nats: of softmax(logits)
    self_certainty: Tensor  # float32, nats: logsumexp(x) - mean(x) - log V; +inf where a token is forbidden
    kept: Tensor  # int64: how many tokens the filters kept; 1 for a greedy row, 0 for an invalid one
    status: Tensor  # int32: 0 valid, or the code of what is wrong: see STATUS


STATS_DTYPES = (torch.float32, torch.float32, torch.float32, torch.float32, torch.int64, torch.int32)


class Case(NamedTuple):
    """One call, normalised: each parameter is a Python number for all rows, or a contiguous [B] tensor."""

    logits: Tensor  # [N, V], stride(1) == 1
    rows: int  # B
    temperature: float | Tensor  # float32
    top_k: int | Tensor  # int32
    top_p: float | Tensor  # float32
    min_p: float | Tensor  # float32
    seed: int | Tensor  # int64
    stream: Tensor | None  # int64; None: the row number
    position: int | Tensor  # int64
    indices: Tensor | None  # int64
    edits: EditColumns | None = None
    allowed: Tensor | None = None  # [B, ceil(V / 32)] int32, a bit a token; stride(1) == 1

    @classmethod
    def of(
        cls,
        logits: Tensor,
        temperature: Parameter,
        top_k: IntParameter,
        top_p: Parameter,
        min_p: Parameter,
        seed: IntParameter,
        stream: IntParameter | None,
        position: IntParameter,
        indices: Tensor | Sequence[int] | None,
        edits: Edits | None = None,
        allowed: Tensor | None = None,
    ) -> Case:
        """Check everything that needs no look at a tensor's values; raise ValueError or TypeError."""
        if not isinstance(logits, Tensor):
            raise TypeError(f"logits must be a torch.Tensor, got {type(logits).__name__}")
        logits = dense("logits", logits)
        if logits.dtype not in LOGIT_DTYPES:
            raise TypeError(f"logits must be float32, float16 or bfloat16, got {logits.dtype}; convert them first")
        if logits.dim() != 2:
            raise ValueError(
                f"logits must be [rows, vocab], got shape {tuple(logits.shape)}; use logits[None] for a single row"
            )
        count, vocab = logits.shape
        if vocab == 0:
            raise ValueError("logits must have at least one token a row, got a vocabulary of 0")
        if vocab >= 2**31:
            raise ValueError(f"logits must have fewer than 2**31 tokens a row, got {vocab}")
        if logits.stride(1) != 1 and vocab > 1:
            raise ValueError(
                f"logits must be contiguous along the vocabulary (stride 1), got stride {logits.stride(1)}; "
                "call .contiguous() first"
            )
        rows = count
        if indices is not None:
            indices = tensor_of("indices", indices, None, torch.int64, logits)
            rows = indices.shape[0]
        return cls(
            logits,
            rows,
            parameter_of("temperature", temperature, rows, torch.float32, logits),
            parameter_of("top_k", top_k, rows, torch.int32, logits),
            parameter_of("top_p", top_p, rows, torch.float32, logits),
            parameter_of("min_p", min_p, rows, torch.float32, logits),
            parameter_of("seed", seed, rows, torch.int64, logits),
            None if stream is None else stream_of(stream, rows, logits),
            parameter_of("position", position, rows, torch.int64, logits),
            indices,
            None if edits is None else columns_of(edits, rows, logits),
            None if allowed is None else allowed_of(allowed, rows, logits),
        )

    def check_values(self) -> None:
        """Raise ValueError for a value out of range in a [B] tensor, naming the row. Reads the tensors: CPU only."""
        for name in ("temperature", "top_k", "top_p", "min_p"):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                check_rows(name, value)
        if self.indices is not None and self.rows:
            low, high = torch.aminmax(self.indices)
            if low < 0 or high >= self.logits.shape[0]:
                row = int(((self.indices < 0) | (self.indices >= self.logits.shape[0])).nonzero()[0])
                raise ValueError(
                    f"indices must be in [0, {self.logits.shape[0]}), the rows of logits, "
                    f"got {int(self.indices[row])} at row {row}"
                )
        if self.edits is not None:
            check_edits(self.edits, self.logits.shape[1])

    @property
    def is_edited(self) -> bool:
        """Whether anything is done to the logits before the draw."""
        return self.edits is not None or self.allowed is not None

    def of_edited(self, rows: Tensor) -> Case:
        """The same draws from rows [B, V] that have been edited."""
        return self._replace(logits=rows, indices=None, edits=None, allowed=None)

    def row(self, b: int, source: int) -> Tensor:
        """What output b is drawn from, [V]: row `source` of the logits, as edited."""
        x = self.logits[source]
        if not self.is_edited:
            return x
        edits = None if self.edits is None else EditColumns._make(column[b : b + 1] for column in self.edits)
        return edited(x[None], edits, None if self.allowed is None else self.allowed[b : b + 1])[0]

    def column(self, name: str) -> Tensor:
        """A parameter as a [B] tensor on the device of the logits."""
        value = getattr(self, name)
        if isinstance(value, Tensor):
            return value
        if value is None:  # only `stream` and `indices`: the row's own number
            return torch.arange(self.rows, dtype=torch.int64, device=self.logits.device)
        return self.logits.new_full((self.rows,), value, dtype=DTYPES[name])  # as fake as they are


def empty_stats(case: Case) -> Stats:
    """Stats with room for every row of a case."""
    return Stats._make(torch.empty(case.rows, dtype=dtype, device=case.logits.device) for dtype in STATS_DTYPES)


def raise_for_invalid(tokens: Tensor, case: Case) -> None:
    """Raise ValueError naming the rows whose token is -1 and what their logits hold."""
    bad = (tokens < 0).nonzero().flatten().tolist()
    if not bad:
        return
    sentences = []
    for row in bad[:8]:
        source = row if case.indices is None else int(case.indices[row])
        sentences.append(f"row {row} {STATUS[row_status(case.row(row, source))]}")
    more = f", and {len(bad) - 8} more rows" if len(bad) > 8 else ""
    which = "logits, once edited," if case.is_edited else "logits"
    raise ValueError(
        f"{which} must be finite or -inf, with one finite logit a row at least: {', '.join(sentences)}{more}; "
        "-inf forbids a token, and a NaN usually comes from the model"
    )


def row_status(row: Tensor) -> int:
    """The index into STATUS of one row [V]: a NaN is named before +inf, and both before a row of -inf alone."""
    if bool(row.isnan().any()):
        return 1
    top = float(row.max())
    return 2 if top == math.inf else 3 if top == -math.inf else 0


def is_in_range(temperature: float, top_k: int, top_p: float, min_p: float) -> bool:
    """Whether one row's parameters are what `Case.check_values` allows: a GPU's [B] tensors have not been looked at."""
    given = zip(("temperature", "top_k", "top_p", "min_p"), (temperature, top_k, top_p, min_p))
    return all(BOUNDS[name].allows(value) for name, value in given)
