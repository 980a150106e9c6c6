"""Numbers and tensors as the sampler takes them: ranges, dtypes, shapes and devices, checked in one place.

Every refusal says the rule, the value and the remedy.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

Scalar = float | int
Parameter = float | Tensor | Sequence[float]
IntParameter = int | Tensor | Sequence[int]


class _Bound(NamedTuple):
    sentence: str
    remedy: str
    allows: Callable[[Any], Any]  # of a number: bool; of a tensor: [B] bool; false for a NaN


BOUNDS = {
    "temperature": _Bound(">= 0", "0 takes the argmax", lambda t: t >= 0),
    "top_k": _Bound(">= 0", "0 keeps every token", lambda k: k >= 0),
    "top_p": _Bound("in (0, 1]", "1 keeps every token", lambda p: (p > 0) & (p <= 1)),
    "min_p": _Bound("in [0, 1]", "0 keeps every token", lambda p: (p >= 0) & (p <= 1)),
    "repetition_penalty": _Bound("above 0 and finite", "1 changes nothing", lambda r: (r > 0) & (r < math.inf)),
    "frequency_penalty": _Bound("finite", "0 changes nothing", lambda f: (f > -math.inf) & (f < math.inf)),
    "presence_penalty": _Bound("finite", "0 changes nothing", lambda p: (p > -math.inf) & (p < math.inf)),
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


def parameter_of(name: str, value: Any, rows: int, dtype: torch.dtype, logits: Tensor) -> Any:
    """A checked Python number, or a [B] tensor of `dtype` on the logits' device."""
    if type(value) in (float, int) or (isinstance(value, numbers.Real) and not isinstance(value, bool)):
        return _scalar(name, value, dtype)
    return tensor_of(name, value, rows, dtype, logits)


def _scalar(name: str, value: Any, dtype: torch.dtype) -> Scalar:
    """What a [B] tensor of `dtype` would hold of it: the same values are allowed, and mean the same."""
    given = value
    value = _real(name, value) if dtype is torch.float32 else _whole(name, value)
    bound = BOUNDS.get(name)
    if bound is not None and not bound.allows(value):
        became = ", which is 0 in float32" if value == 0 != given else ""
        raise ValueError(f"{name} must be {bound.sentence}, got {shown(given)}{became}; {bound.remedy}")
    if dtype is torch.int32:
        return min(value, 2**31 - 1)
    if dtype is torch.int64 and not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} must fit in 64 bits (signed), got {shown(given)}; take it modulo 2**63")
    return value


def _real(name: str, value: Any) -> float:
    if type(value) is not float:
        try:
            value = float(value)
        except OverflowError:
            raise ValueError(f"{name} must fit in a float32, got {shown(value)}; pass a smaller number") from None
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
        raise TypeError(f"{name} must be a whole number, got {shown(value)}")
    return int(value)


def shown(value: Any) -> str:
    """A value in an error: Python refuses to print an integer of thousands of digits."""
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


def dense(name: str, tensor: Tensor) -> Tensor:
    """The tensor with all of it in its memory: a negated view notes its sign elsewhere, a zero tensor has no memory."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        got = "a nested tensor; pad it" if tensor.is_nested else f"layout {tensor.layout}; call .to_dense()"
        raise TypeError(f"{name} must be dense, got {got} first")
    if torch.compiler.is_compiling() or (type(tensor) is not Tensor and not has_memory(tensor)):
        return tensor
    if tensor._is_zerotensor():
        return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    return tensor.resolve_neg() if tensor.is_neg() else tensor


def tensor_of(name: str, value: Any, rows: int | None, dtype: torch.dtype, logits: Tensor) -> Tensor:
    """A contiguous [B] tensor of `dtype` on the logits' device; rows None: of any length."""
    if not isinstance(value, Tensor):
        if getattr(value, "shape", None) == ():  # numpy's bool: torch would read it as an index
            value = value.item()
        try:
            value = torch.as_tensor(value, device=logits.device)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            if "too large" in str(error) or "Overflow" in str(error):
                raise ValueError(f"{name} must hold numbers that fit in 64 bits (signed), got a larger one") from None
            raise TypeError(f"{name} must be a number or a [B] tensor, got {type(value).__name__}") from None
    value = dense(name, value)
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


def stream_of(value: Any, rows: int, logits: Tensor) -> Tensor:
    """The streams of B rows, [B] int64; one for all rows is refused."""
    if isinstance(value, numbers.Real):
        raise TypeError(
            f"stream must be None or a [B] tensor, got {shown(value)}; "
            "rows that share a seed and a stream draw the same noise"
        )
    return tensor_of("stream", value, rows, torch.int64, logits)


def check_rows(name: str, value: Tensor) -> None:
    """Raise ValueError for a value out of range, naming the row. Reads the tensor."""
    bound = BOUNDS[name]
    is_allowed = bound.allows(value)
    if not is_allowed.all():
        row = int((~is_allowed).nonzero()[0])
        got = value[row].item()
        became = " (in float32)" if got == 0 else ""
        raise ValueError(f"{name} must be {bound.sentence}, got {got:g}{became} at row {row}; {bound.remedy}")
