"""The public `sample` and `distribution`, and the custom operators that let `torch.compile` trace through them."""

from __future__ import annotations

import importlib
import types
from collections.abc import Sequence
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from .contract import Case, IntParameter, Parameter, Stats, raise_for_invalid

# By device: the first backend without an objection is taken. Nothing is imported before it is asked.
BACKENDS = {
    "cpu": "fastsample.backends.cpu",
    "triton": "fastsample.backends.triton",
    "cuda": "fastsample.backends.cuda",
    "reference": "fastsample.reference",
}
ORDER = {"cpu": ("cpu", "reference")}
ORDER_ELSEWHERE = ("cuda", "triton", "reference")
_loaded: dict[str, types.ModuleType] = {}


@overload
def sample(
    logits: Tensor,
    *,
    temperature: Parameter = ...,
    top_k: IntParameter = ...,
    top_p: Parameter = ...,
    min_p: Parameter = ...,
    seed: IntParameter = ...,
    stream: Tensor | Sequence[int] | None = ...,
    position: IntParameter = ...,
    indices: Tensor | Sequence[int] | None = ...,
    return_stats: Literal[False] = ...,
    out: Tensor | None = ...,
    backend: str | None = ...,
) -> Tensor: ...
@overload
def sample(
    logits: Tensor,
    *,
    temperature: Parameter = ...,
    top_k: IntParameter = ...,
    top_p: Parameter = ...,
    min_p: Parameter = ...,
    seed: IntParameter = ...,
    stream: Tensor | Sequence[int] | None = ...,
    position: IntParameter = ...,
    indices: Tensor | Sequence[int] | None = ...,
    return_stats: Literal[True],
    out: Tensor | None = ...,
    backend: str | None = ...,
) -> tuple[Tensor, Stats]: ...
def sample(
    logits: Tensor,
    *,
    temperature: Parameter = 1.0,
    top_k: IntParameter = 0,
    top_p: Parameter = 1.0,
    min_p: Parameter = 0.0,
    seed: IntParameter = 0,
    stream: Tensor | Sequence[int] | None = None,
    position: IntParameter = 0,
    indices: Tensor | Sequence[int] | None = None,
    return_stats: bool = False,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Stats]:
    """Draw one token per row: the same token on every backend, whatever the batch, the row order or the threads.

    logits:      [N, V] float32, float16 or bfloat16, any row stride; -inf forbids a token; never modified
    temperature: float or [B], >= 0; 0 takes the argmax (lowest index on ties)
    top_k:       int or [B], >= 0; keeps the k largest; 0 keeps every token
    top_p:       float or [B], in (0, 1]; keeps the smallest set whose probability reaches p, after top_k
    min_p:       float or [B], in [0, 1]; keeps tokens with at least min_p times the largest probability
    seed:        int or [B] int64; names the experiment
    stream:      None or [B] int64; names the sample, never its row; None = the row number
    position:    int or [B] int64; the token's index in its own sequence
    indices:     None or [B] int64; output b reads logits row indices[b] (many draws from one row)
    out:         None or [B] int64, contiguous, on the device of the logits; receives the tokens
    backend:     None (the fastest that can run), "cpu", "cuda", "triton" or "reference"

    returns: [B] int64, or with return_stats the pair ([B] int64, Stats)
    raises:  ValueError or TypeError for a bad argument, with the rule, the value, the row and the remedy; ValueError
             naming rows that hold a NaN or +inf or no finite logit, on the CPU. Elsewhere, where raising would
             synchronise, such a row's token is -1 and its Stats.status says which.
    source:  the order of the filters is that of transformers' logits warpers; ties are settled by index
    """
    case = Case.of(logits, temperature, top_k, top_p, min_p, seed, stream, position, indices)
    if out is not None:
        _check_out(out, case)
    if torch.compiler.is_compiling():
        return _traced(case, return_stats, out, backend)
    tokens = torch.empty(case.rows, dtype=torch.int64, device=logits.device) if out is None else out
    stats = empty_stats(case) if return_stats else None
    _run(case, tokens, stats, backend)
    return tokens if stats is None else (tokens, stats)


class SparseDistribution(NamedTuple):
    """The kept tokens of each row, most probable first; K is the largest number of kept tokens of any row."""

    ids: Tensor  # [B, K] int64, -1 behind a row's last
    probabilities: Tensor  # [B, K] float32, 0 behind a row's last


@overload
def distribution(
    logits: Tensor,
    *,
    temperature: Parameter = ...,
    top_k: IntParameter = ...,
    top_p: Parameter = ...,
    min_p: Parameter = ...,
    indices: Tensor | Sequence[int] | None = ...,
    sparse: Literal[False] = ...,
    backend: str | None = ...,
) -> Tensor: ...
@overload
def distribution(
    logits: Tensor,
    *,
    temperature: Parameter = ...,
    top_k: IntParameter = ...,
    top_p: Parameter = ...,
    min_p: Parameter = ...,
    indices: Tensor | Sequence[int] | None = ...,
    sparse: Literal[True],
    backend: str | None = ...,
) -> SparseDistribution: ...
def distribution(
    logits: Tensor,
    *,
    temperature: Parameter = 1.0,
    top_k: IntParameter = 0,
    top_p: Parameter = 1.0,
    min_p: Parameter = 0.0,
    indices: Tensor | Sequence[int] | None = None,
    sparse: bool = False,
    backend: str | None = None,
) -> Tensor | SparseDistribution:
    """The exact probabilities with which `sample` draws each token, for the same arguments.

    returns: [B, V] float32, 0 where a token is filtered; with `sparse` the kept tokens' ids and probabilities
    raises:  as `sample`
    """
    case = Case.of(logits, temperature, top_k, top_p, min_p, 0, None, 0, indices)
    case.check_values()
    module = _backend(case, backend, "distribution")
    dense = torch.empty(case.rows, logits.shape[1], dtype=torch.float32, device=logits.device)
    if module.distribution(case, dense):
        raise_for_invalid(torch.where(dense[:, 0].isnan(), -1, 0), case)
    if not sparse:
        return dense
    width = int((dense > 0).sum(1).max()) if case.rows else 0
    probabilities, ids = dense.sort(dim=1, descending=True, stable=True)
    probabilities, ids = probabilities[:, :width].contiguous(), ids[:, :width]
    return SparseDistribution(torch.where(probabilities > 0, ids, -1), probabilities)


def _run(case: Case, tokens: Tensor, stats: Stats | None, backend: str | None) -> None:
    on_cpu = case.logits.device.type == "cpu"
    if on_cpu:
        case.check_values()
    if case.rows == 0:
        return
    invalid = _backend(case, backend).sample(case, tokens, stats)
    if on_cpu and invalid:
        raise_for_invalid(tokens, case)


def _backend(case: Case, name: str | None, does: str = "sample") -> types.ModuleType:
    if name is not None:
        if name not in BACKENDS:
            raise ValueError(f"backend must be None or one of {', '.join(BACKENDS)}, got {name!r}")
        module = load_backend(name)
        objection = module.why_not(case) or (None if hasattr(module, does) else f"it has no {does}")
        if objection:
            raise ValueError(f"backend {name!r} cannot run: {objection}")
        return module
    for candidate in ORDER.get(case.logits.device.type, ORDER_ELSEWHERE):
        module = load_backend(candidate)
        if hasattr(module, does) and module.why_not(case) is None:
            return module
    raise AssertionError("the reference has no objection")


def load_backend(name: str) -> types.ModuleType:
    """The backend's module: `name`, `why_not(case)`, `sample(case, tokens, stats)`, `distribution(case, out)`."""
    module = _loaded.get(name)
    if module is None:
        module = _loaded[name] = importlib.import_module(BACKENDS[name])
    return module


def _check_out(out: Tensor, case: Case) -> None:
    if not isinstance(out, Tensor) or out.dtype != torch.int64:
        got = out.dtype if isinstance(out, Tensor) else type(out).__name__
        raise TypeError(f"out must be an int64 tensor, got {got}")
    if out.shape != (case.rows,) or not out.is_contiguous() or out.device != case.logits.device:
        raise ValueError(
            f"out must be a contiguous [{case.rows}] tensor on {case.logits.device}, "
            f"got shape {tuple(out.shape)}, stride {out.stride()} on {out.device}"
        )


def empty_stats(case: Case) -> Stats:
    """Stats with room for every row of a case."""
    return Stats._make(torch.empty(case.rows, dtype=dtype, device=case.logits.device) for dtype in STATS_DTYPES)


STATS_DTYPES = (torch.float32, torch.float32, torch.float32, torch.float32, torch.int64, torch.int32)
SevenTensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


# --- torch.compile: one operator, its parameters as tensors so that a new value is no new graph ----------------------


@torch.library.custom_op("fastsample::sample", mutates_args=())
def sample_op(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seed: Tensor,
    stream: Tensor | None,
    position: Tensor,
    indices: Tensor | None,
    with_stats: bool,
    backend: str | None,
) -> SevenTensors:
    case = Case.of(logits, temperature, top_k, top_p, min_p, seed, stream, position, indices)
    tokens = torch.empty(case.rows, dtype=torch.int64, device=logits.device)
    stats = empty_stats(case if with_stats else case._replace(rows=0))
    _run(case, tokens, stats if with_stats else None, backend)
    return (tokens, *stats)


@sample_op.register_fake
def _(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seed: Tensor,
    stream: Tensor | None,
    position: Tensor,
    indices: Tensor | None,
    with_stats: bool,
    backend: str | None,
) -> SevenTensors:
    rows = logits.shape[0] if indices is None else indices.shape[0]
    columns = Stats._make(logits.new_empty(rows if with_stats else 0, dtype=dtype) for dtype in STATS_DTYPES)
    return (logits.new_empty(rows, dtype=torch.int64), *columns)


def _traced(case: Case, return_stats: bool, out: Tensor | None, backend: str | None) -> Tensor | tuple[Tensor, Stats]:
    columns = [case.column(n) for n in ("temperature", "top_k", "top_p", "min_p", "seed")]
    tokens, *stats = sample_op(
        case.logits, *columns, case.stream, case.column("position"), case.indices, return_stats, backend
    )
    if out is not None:
        tokens = out.copy_(tokens)
    return (tokens, Stats(*stats)) if return_stats else tokens
