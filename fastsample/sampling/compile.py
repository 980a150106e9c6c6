"""The custom operators that let `torch.compile` trace through `sample` and `distribution`.

Their parameters are tensors, so that a new value is no new graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .contract import STATS_DTYPES, Case, Stats, empty_stats
from .dispatch import run, run_distribution
from .edits import EditColumns

SevenTensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


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
    edits: Sequence[Tensor],
    allowed: Tensor | None,
    with_stats: bool,
    backend: str | None,
) -> SevenTensors:
    """`sample` as an operator: parameters [B] each, all columns of edits or none; returns the tokens and `Stats`."""
    case = _edited(Case.of(logits, temperature, top_k, top_p, min_p, seed, stream, position, indices), edits, allowed)
    tokens = torch.empty(case.rows, dtype=torch.int64, device=logits.device)
    stats = empty_stats(case if with_stats else case._replace(rows=0))
    run(case, tokens, stats if with_stats else None, backend)
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
    edits: Sequence[Tensor],
    allowed: Tensor | None,
    with_stats: bool,
    backend: str | None,
) -> SevenTensors:
    rows = logits.shape[0] if indices is None else indices.shape[0]
    columns = Stats._make(logits.new_empty(rows if with_stats else 0, dtype=dtype) for dtype in STATS_DTYPES)
    return (logits.new_empty(rows, dtype=torch.int64), *columns)


def traced(case: Case, return_stats: bool, out: Tensor | None, backend: str | None) -> Tensor | tuple[Tensor, Stats]:
    """`sample` while torch traces: the same arguments, checked, as one call of the operator."""
    columns = [case.column(n) for n in ("temperature", "top_k", "top_p", "min_p", "seed")]
    tokens, *stats = sample_op(
        case.logits,
        *columns,
        case.stream,
        case.column("position"),
        case.indices,
        list(case.edits or ()),
        case.allowed,
        return_stats,
        backend,
    )
    if out is not None:
        tokens = out.copy_(tokens)
    return (tokens, Stats(*stats)) if return_stats else tokens


@torch.library.custom_op("fastsample::distribution", mutates_args=())
def distribution_op(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    indices: Tensor | None,
    edits: Sequence[Tensor],
    allowed: Tensor | None,
    backend: str | None,
) -> Tensor:
    """`distribution` as an operator: parameters [B] each; returns [B, V] float32."""
    case = Case.of(logits, temperature, top_k, top_p, min_p, 0, None, 0, indices)
    return run_distribution(_edited(case, edits, allowed), backend)


@distribution_op.register_fake
def _(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    indices: Tensor | None,
    edits: Sequence[Tensor],
    allowed: Tensor | None,
    backend: str | None,
) -> Tensor:
    rows = logits.shape[0] if indices is None else indices.shape[0]
    return logits.new_empty((rows, logits.shape[1]), dtype=torch.float32)


def traced_distribution(case: Case, backend: str | None) -> Tensor:
    """`distribution` while torch traces: the same arguments, checked, as one call of the operator."""
    columns = [case.column(name) for name in ("temperature", "top_k", "top_p", "min_p")]
    result: Tensor = distribution_op(case.logits, *columns, case.indices, list(case.edits or ()), case.allowed, backend)
    return result


def _edited(case: Case, edits: Sequence[Tensor], allowed: Tensor | None) -> Case:
    return case._replace(edits=EditColumns._make(edits) if edits else None, allowed=allowed)
