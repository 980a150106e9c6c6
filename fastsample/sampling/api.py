"""The public `sample` and `distribution`: arguments checked, a backend chosen, errors raised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from .compile import traced, traced_distribution
from .contract import Case, Stats, empty_stats
from .dispatch import run, run_distribution
from .edits import Edits
from .values import IntParameter, Parameter, check_memory, has_memory


@overload
def sample(
    logits: Tensor,
    *,
    temperature: Parameter = ...,
    top_k: IntParameter = ...,
    top_p: Parameter = ...,
    min_p: Parameter = ...,
    seed: IntParameter | None = ...,
    stream: Tensor | Sequence[int] | None = ...,
    position: IntParameter | None = ...,
    indices: Tensor | Sequence[int] | None = ...,
    edits: Edits | None = ...,
    allowed: Tensor | None = ...,
    generator: torch.Generator | None = ...,
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
    seed: IntParameter | None = ...,
    stream: Tensor | Sequence[int] | None = ...,
    position: IntParameter | None = ...,
    indices: Tensor | Sequence[int] | None = ...,
    edits: Edits | None = ...,
    allowed: Tensor | None = ...,
    generator: torch.Generator | None = ...,
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
    seed: IntParameter | None = None,
    stream: Tensor | Sequence[int] | None = None,
    position: IntParameter | None = None,
    indices: Tensor | Sequence[int] | None = None,
    edits: Edits | None = None,
    allowed: Tensor | None = None,
    generator: torch.Generator | None = None,
    return_stats: bool = False,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Stats]:
    """Draw one token per row: the same token on every backend, whatever the batch, the row order or the threads.

    Named by none of seed, stream and position, the noise is fresh with every call, as in torch.multinomial: it comes
    from torch's own generator, which torch.manual_seed sets, or from `generator`. Naming one of them asks for the
    reproducible form, in which the others count as 0, and the same arguments give the same tokens.

    logits:      [N, V] float32, float16 or bfloat16, any row stride; -inf forbids a token; never modified
    temperature: float or [B], >= 0; 0 takes the argmax (lowest index on ties)
    top_k:       int or [B], >= 0; keeps the k largest; 0 keeps every token
    top_p:       float or [B], in (0, 1]; keeps the smallest set whose probability reaches p, after top_k
    min_p:       float or [B], in [0, 1]; keeps tokens with at least min_p times the largest probability
    seed:        None, int or [B] int64; names the experiment
    stream:      None or [B] int64; names the sample, never its row; None = the row number
    position:    None, int or [B] int64; the token's index in its own sequence (`Sampler` counts it)
    indices:     None or [B] int64; output b reads logits row indices[b] (many draws from one row)
    edits:       None or `Edits` of B rows: penalties and biases, which change the logits first
    allowed:     None, int32 [B, ceil(V / 32)] with a bit for each token (xgrammar's layout) or bool [B, V], or one such
                 row for all: what is not set is forbidden
    generator:   None or a torch.Generator on the device of the logits: where fresh noise comes from
    out:         None or [B] int64, contiguous, on the device of the logits; receives the tokens
    backend:     None (the fastest that can run), "cpu", "cuda", "triton" or "reference"

    The tokens are those of the logits that `edits` and `allowed` leave (`sampling.edits.edited`), and so are Stats.

    returns: [B] int64, or with return_stats the pair ([B] int64, Stats)
    raises:  ValueError or TypeError for a bad argument, with the rule, the value, the row and the remedy; ValueError
             naming rows that hold a NaN or +inf or no finite logit, on the CPU. Elsewhere, where raising would
             synchronise, such a row's token is -1 and its Stats.status says which; so is the token of a row whose
             parameters, in [B] tensors, are out of range.
    source:  the order of the filters is that of transformers' logits warpers; ties are settled by index
    """
    if seed is None and stream is None and position is None:
        seed = fresh_seed(logits, generator)
    elif generator is not None:
        raise ValueError("generator draws fresh noise, and got seed, stream or position as well; name one or the other")
    seed, position = 0 if seed is None else seed, 0 if position is None else position
    case = Case.of(logits, temperature, top_k, top_p, min_p, seed, stream, position, indices, edits, allowed)
    if out is not None:
        _check_out(out, case)
    if torch.compiler.is_compiling() or not has_memory(logits):
        return traced(case, return_stats, out, backend)
    tokens = torch.empty(case.rows, dtype=torch.int64, device=logits.device) if out is None else out
    if type(tokens) is not Tensor:  # made in a mode of torch that fakes tensors
        return traced(case, return_stats, out, backend)
    stats = empty_stats(case) if return_stats else None
    run(case, tokens, stats, backend)
    return tokens if stats is None else (tokens, stats)


def fresh_seed(logits: Tensor, generator: torch.Generator | None = None) -> int | Tensor:
    """A seed that nobody has named, from torch's generator of the logits' device, or from `generator`.

    returns: a number for logits on a CPU, else a tensor [] int64 there: reading it would wait for the device
    """
    if not isinstance(logits, Tensor):
        return 0  # it is told of by the check of all arguments
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}; or name a seed")
        if generator.device.type != logits.device.type:
            raise ValueError(
                f"generator must be on the device of the logits, {logits.device}, got {generator.device}; "
                f"make it with torch.Generator({str(logits.device)!r})"
            )
    drawn = torch.randint(2**63 - 1, (), device=logits.device, generator=generator)
    is_number = drawn.device.type == "cpu" and type(drawn) is Tensor and not torch.compiler.is_compiling()
    return int(drawn) if is_number else drawn


def named_or_fresh(seed: int | None) -> int:
    """The seed, or a fresh one for None: for whoever keeps it over many draws."""
    return int(fresh_seed(torch.empty(0))) if seed is None else seed


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
    edits: Edits | None = ...,
    allowed: Tensor | None = ...,
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
    edits: Edits | None = ...,
    allowed: Tensor | None = ...,
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
    edits: Edits | None = None,
    allowed: Tensor | None = None,
    sparse: bool = False,
    backend: str | None = None,
) -> Tensor | SparseDistribution:
    """The exact probabilities with which `sample` draws each token, for the same arguments.

    returns: [B, V] float32, 0 where a token is filtered; with `sparse` the kept tokens' ids and probabilities
    raises:  as `sample`
    """
    case = Case.of(logits, temperature, top_k, top_p, min_p, 0, None, 0, indices, edits, allowed)
    if torch.compiler.is_compiling():
        dense = traced_distribution(case, backend)
    else:
        check_memory("logits", case.logits)
        dense = run_distribution(case, backend)
    if not sparse:
        return dense
    width = int((dense > 0).sum(1).max()) if case.rows else 0
    probabilities, ids = dense.sort(dim=1, descending=True, stable=True)
    probabilities, ids = probabilities[:, :width].contiguous(), ids[:, :width]
    return SparseDistribution(torch.where(probabilities > 0, ids, -1), probabilities)


def _check_out(out: Tensor, case: Case) -> None:
    if not isinstance(out, Tensor) or out.dtype != torch.int64:
        got = out.dtype if isinstance(out, Tensor) else type(out).__name__
        raise TypeError(f"out must be an int64 tensor, got {got}")
    if out.shape != (case.rows,) or not out.is_contiguous() or out.device != case.logits.device:
        raise ValueError(
            f"out must be a contiguous [{case.rows}] tensor on {case.logits.device}, "
            f"got shape {tuple(out.shape)}, stride {out.stride()} on {out.device}"
        )
    if has_memory(case.logits):
        check_memory("out", out)
    if out.is_neg():
        raise ValueError("out must be a tensor that is written as it is read, got a negated view; pass its base")
