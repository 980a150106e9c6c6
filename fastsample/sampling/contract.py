"""What a call of `sample` may be given, checked and normalised once; and the constants of the numerical contract.

Errors about what is drawn are raised here, those about `out` in `api` and about `backend` in `dispatch`. The checks
that need no value of a tensor (`Case.of`) trace through `torch.compile`; the ones that look at values
(`Case.check_values`) run where the values are at hand: on the CPU.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

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

Scalar = float | int
Parameter = float | Tensor | Sequence[float]
IntParameter = int | Tensor | Sequence[int]


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
    ) -> Case:
        """Check everything that needs no look at a tensor's values; raise ValueError or TypeError."""
        if not isinstance(logits, Tensor):
            raise TypeError(f"logits must be a torch.Tensor, got {type(logits).__name__}")
        logits = _dense("logits", logits)
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
            indices = _tensor("indices", indices, None, torch.int64, logits)
            rows = indices.shape[0]
        return cls(
            logits,
            rows,
            _parameter("temperature", temperature, rows, torch.float32, logits),
            _parameter("top_k", top_k, rows, torch.int32, logits),
            _parameter("top_p", top_p, rows, torch.float32, logits),
            _parameter("min_p", min_p, rows, torch.float32, logits),
            _parameter("seed", seed, rows, torch.int64, logits),
            None if stream is None else _stream(stream, rows, logits),
            _parameter("position", position, rows, torch.int64, logits),
            indices,
        )

    def check_values(self) -> None:
        """Raise ValueError for a value out of range in a [B] tensor, naming the row. Reads the tensors: CPU only."""
        for name in BOUNDS:
            value = getattr(self, name)
            if isinstance(value, Tensor):
                _check_rows(name, value)
        if self.indices is not None and self.rows:
            low, high = torch.aminmax(self.indices)
            if low < 0 or high >= self.logits.shape[0]:
                row = int(((self.indices < 0) | (self.indices >= self.logits.shape[0])).nonzero()[0])
                raise ValueError(
                    f"indices must be in [0, {self.logits.shape[0]}), the rows of logits, "
                    f"got {int(self.indices[row])} at row {row}"
                )

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
        sentences.append(f"row {row} {STATUS[row_status(case.logits[source])]}")
    more = f", and {len(bad) - 8} more rows" if len(bad) > 8 else ""
    raise ValueError(
        f"logits must be finite or -inf, with one finite logit a row at least: {', '.join(sentences)}{more}; "
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


class _Bound(NamedTuple):
    sentence: str
    remedy: str
    allows: Callable[[Any], Any]  # of a number: bool; of a tensor: [B] bool; false for a NaN


BOUNDS = {
    "temperature": _Bound(">= 0", "0 takes the argmax", lambda t: t >= 0),
    "top_k": _Bound(">= 0", "0 keeps every token", lambda k: k >= 0),
    "top_p": _Bound("in (0, 1]", "1 keeps every token", lambda p: (p > 0) & (p <= 1)),
    "min_p": _Bound("in [0, 1]", "0 keeps every token", lambda p: (p >= 0) & (p <= 1)),
}
DTYPES = {
    "temperature": torch.float32,
    "top_k": torch.int32,
    "top_p": torch.float32,
    "min_p": torch.float32,
    "seed": torch.int64,
    "stream": torch.int64,
    "position": torch.int64,
    "indices": torch.int64,
}


def _parameter(name: str, value: Any, rows: int, dtype: torch.dtype, logits: Tensor) -> Any:
    """A checked Python number, or a [B] tensor of `dtype` on the logits' device."""
    if type(value) in (float, int) or (isinstance(value, numbers.Real) and not isinstance(value, bool)):
        return _scalar(name, value, dtype)
    return _tensor(name, value, rows, dtype, logits)


def _scalar(name: str, value: Any, dtype: torch.dtype) -> Scalar:
    """What a [B] tensor of `dtype` would hold of it: the same values are allowed, and mean the same."""
    given = value
    value = _real(name, value) if dtype is torch.float32 else _whole(name, value)
    bound = BOUNDS.get(name)
    if bound is not None and not bound.allows(value):
        became = ", which is 0 in float32" if value == 0 != given else ""
        raise ValueError(f"{name} must be {bound.sentence}, got {_shown(given)}{became}; {bound.remedy}")
    if dtype is torch.int32:
        return min(value, 2**31 - 1)
    if dtype is torch.int64 and not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} must fit in 64 bits (signed), got {_shown(given)}; take it modulo 2**63")
    return value


def _real(name: str, value: Any) -> float:
    if type(value) is not float:
        try:
            value = float(value)
        except OverflowError:
            raise ValueError(f"{name} must fit in a float32, got {_shown(value)}; pass a smaller number") from None
    # Traced, a float stands for any: its column is made float32 in the graph, and looked at when the graph runs.
    return value if torch.compiler.is_compiling() else as_float32(value)


@lru_cache(1024)  # a call's parameters are those of the call before
def as_float32(value: float) -> float:
    """The nearest float32, ties to even; by float64 arithmetic, as the process may flush float32's denormals."""
    if abs(value) < 2.0**128:
        spacing = max(math.frexp(value)[1] - 24, -149)  # of the float32 numbers around it, as a power of two
        shift = math.ldexp(0.75, spacing + 53)
        value = (value + shift) - shift
    return value if abs(value) < 2.0**128 or value != value else math.copysign(math.inf, value)


def _whole(name: str, value: Any) -> int:
    if type(value) is int:
        return value
    is_finite = isinstance(value, numbers.Rational) or math.isfinite(value)
    if not is_finite or value != int(value):
        raise TypeError(f"{name} must be a whole number, got {_shown(value)}")
    return int(value)


def _shown(value: Any) -> str:  # Python refuses to print an integer of thousands of digits
    return f"an integer of {value.bit_length()} bits" if type(value) is int and abs(value) >> 128 else str(value)


def has_memory(tensor: Tensor) -> bool:
    """Whether its address can be read from: not on the meta device, nor of a subclass that hands operators on."""
    is_own = type(tensor) is Tensor or type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__
    return is_own and not tensor.is_meta


def check_memory(name: str, tensor: Tensor) -> None:
    """Raise TypeError for a tensor whose address says nothing: on meta, or a subclass that holds others."""
    if not has_memory(tensor):
        got = "one on meta" if tensor.is_meta else type(tensor).__name__
        raise TypeError(f"{name} must be a tensor with memory of its own, got {got}; unwrap it first")


def _dense(name: str, tensor: Tensor) -> Tensor:
    """With all that it means in its memory: a negated view notes its sign elsewhere, a zero tensor has no memory."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        got = "a nested tensor; pad it" if tensor.is_nested else f"layout {tensor.layout}; call .to_dense()"
        raise TypeError(f"{name} must be dense, got {got} first")
    if torch.compiler.is_compiling() or (type(tensor) is not Tensor and not has_memory(tensor)):
        return tensor
    if tensor._is_zerotensor():
        return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    return tensor.resolve_neg() if tensor.is_neg() else tensor


def _tensor(name: str, value: Any, rows: int | None, dtype: torch.dtype, logits: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        if getattr(value, "shape", None) == ():  # numpy's bool: torch would read it as an index
            value = value.item()
        try:
            value = torch.as_tensor(value, device=logits.device)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            if "too large" in str(error) or "Overflow" in str(error):
                raise ValueError(f"{name} must hold numbers that fit in 64 bits (signed), got a larger one") from None
            raise TypeError(f"{name} must be a number or a [B] tensor, got {type(value).__name__}") from None
    value = _dense(name, value)
    if type(value) is not Tensor and not torch.compiler.is_compiling() and has_memory(logits):
        check_memory(name, value)
    if value.device != logits.device:
        raise ValueError(
            f"{name} must be on the device of the logits, {logits.device}, got {value.device}; move it there first"
        )
    is_number = value.dtype != torch.bool and not value.is_complex()
    is_signed = value.dtype != torch.uint64  # beyond 2^63 a conversion to int64 would wrap around
    is_wanted = is_number and (dtype == torch.float32 or (not value.is_floating_point() and is_signed))
    if not is_wanted and value.numel():  # torch.as_tensor([]) is a float, whatever was meant
        wanted = "real numbers" if dtype == torch.float32 else "whole numbers"
        raise TypeError(f"{name} must hold {wanted}, got dtype {value.dtype}")
    if value.dim() == 0 and rows is not None:
        value = value.expand(rows)
    if value.dim() != 1 or (rows is not None and value.shape[0] != rows):
        wanted = "[B]" if rows is None else f"one value or [{rows}], a value a row"
        raise ValueError(f"{name} must be {wanted}, got shape {tuple(value.shape)}")
    if name == "top_k" and value.dtype in (torch.int64, torch.uint32):
        value = value.long().clamp(-(2**31), 2**31 - 1)  # too large means "off"; a plain conversion would wrap around
    return value.to(dtype).contiguous()


def _stream(value: Any, rows: int, logits: Tensor) -> Tensor:
    if isinstance(value, numbers.Real):
        raise TypeError(
            f"stream must be None or a [B] tensor, got {_shown(value)}; "
            "rows that share a seed and a stream draw the same noise"
        )
    return _tensor("stream", value, rows, torch.int64, logits)


def _check_rows(name: str, value: Tensor) -> None:
    bound = BOUNDS[name]
    is_allowed = bound.allows(value)
    if not is_allowed.all():
        row = int((~is_allowed).nonzero()[0])
        got = value[row].item()
        became = " (in float32)" if got == 0 else ""
        raise ValueError(f"{name} must be {bound.sentence}, got {got:g}{became} at row {row}; {bound.remedy}")
