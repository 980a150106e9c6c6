"""The Triton backend: two launches, no synchronisation, no tensor made beyond a cached workspace.

Edited rows are written first, by a launch or two more, into memory of the call.
"""

from __future__ import annotations

import functools
import sys
import threading
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ...contract import CHUNK, Case
from ..workspace import Workspaces, room_for_edited

name = "triton"
MAX_VOCAB = 2**20
CAPACITY = 2048  # candidates that a row's cut may have in memory
THREADS = 128  # of a program of the first kernel
FINISHERS = 256  # threads of a program of the second kernel
RESIDENT = 8  # programs of the first kernel that a multiprocessor holds at once
SHIFT = {torch.float32: 0, torch.bfloat16: 16, torch.float16: 13}  # bits of a float32 that no such logit uses


def why_not(case: Case) -> str | None:
    """Why the backend cannot run the case here, in one sentence, or None."""
    device = case.logits.device
    if device.type == "cpu":
        if not _is_interpreting():
            return "the logits are on the CPU, and Triton needs a GPU; move them there"
    elif device.type != "cuda":
        return f"the logits are on {device}, and Triton runs on CUDA and ROCm devices"
    if case.logits.shape[1] > MAX_VOCAB:
        return f"the vocabulary must be at most {MAX_VOCAB}, got {case.logits.shape[1]}"
    if find_spec("triton") is None:
        return "triton is not installed; pip install triton"
    if device.type == "cuda" and torch.version.hip is None:
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:
            return f"the GPU must be of compute capability 8.0 or newer, got {major}.{minor}"
    return None


def _is_interpreting() -> bool:
    """Whether Triton's interpreter, which runs kernels on CPU tensors, was switched on before triton was imported."""
    triton = sys.modules.get("triton")
    return triton is not None and bool(triton.knobs.runtime.interpret)


# tops, sums and listing: a value a chunk; scratch: `scratch_words` a row
_workspaces = Workspaces((torch.float32, torch.int64, torch.int32, torch.float32))
_launching = threading.Lock()  # two threads on one stream: both launches of a call before the next call's


def share(with_stats: bool) -> int:
    """Threads that read a chunk together: the fewer, the less is shuffled, but statistics need registers.

    Witness: bench/kernel_cost.py. 8 instead of 16 takes a fifth off the issue slots; with statistics it would take
    96 registers, with which less than half of a multiprocessor's warps are resident.
    """
    return 16 if with_stats else 8


def first_constants(with_stats: bool) -> dict[str, Any]:
    """Compile-time constants of the first kernel."""
    return dict(WITH_STATS=with_stats, THREADS=THREADS, SHARE=share(with_stats))


def second_constants(with_stats: bool, chunks: int, dtype: torch.dtype) -> dict[str, Any]:
    """Compile-time constants of the second kernel."""
    block = max(FINISHERS, 1 << (chunks - 1).bit_length())  # a chunk a thread at least: few kernels for all sizes
    return dict(WITH_STATS=with_stats, BLOCK=block, CAPACITY=CAPACITY, SHIFT=SHIFT[dtype])


def programs(rows: int, chunks: int, tile: int, processors: int) -> int:
    """Programs of the first kernel for each row: enough to fill the device, none without a tile of chunks."""
    return max(1, min(-(-RESIDENT * processors // rows), -(-chunks // tile)))


@functools.lru_cache(None)
def _device(device: torch.device) -> tuple[int, int]:
    """Multiprocessors, and threads of a warp. The interpreter has none: a few programs show what many would."""
    if device.type == "cpu":
        return 1, 32
    properties = torch.cuda.get_device_properties(device)
    return properties.multi_processor_count, getattr(properties, "warp_size", 32)  # torch 2.4 does not say


def scratch_words(chunks: int) -> int:
    """float32 words of a row for the moments of its chunks, and after them for candidates of 8 bytes: 64 kB at most."""
    return max(2 * CAPACITY, -(-3 * chunks // 2) * 2)


def sample(case: Case, tokens: Tensor, stats: tuple[Tensor, ...] | None) -> int | None:
    """Fill tokens [B] int64 and the tensors of `Stats`; None: how many rows are invalid only the device knows."""
    device = case.logits.device
    if device.type == "cuda":
        with torch.cuda.device(device), _launching:
            _launch(_edited(case), tokens, stats)
        return None
    _launch(_edited(case), tokens, stats)
    return int((tokens < 0).sum())


def _edited(case: Case) -> Case:
    """The same draws from rows that launches of their own edit into memory of this call."""
    if not case.is_edited:
        return case
    from .edits import edit

    rows = room_for_edited(case)
    edit(case, rows, _device(case.logits.device)[1])
    return case.of_edited(rows)


def _launch(case: Case, tokens: Tensor, stats: tuple[Tensor, ...] | None) -> None:
    from . import kernels as kernels

    logits = case.logits
    vocab = logits.shape[1]
    chunks = -(-vocab // CHUNK)
    words = scratch_words(chunks)
    need = case.rows * chunks
    stream = torch.cuda.current_stream(logits.device).cuda_stream if logits.device.type == "cuda" else 0
    tops, sums, listing, scratch = _workspaces.get(logits.device, stream, (need, need, need, case.rows * words))
    row = (logits, logits.stride(0), logits.shape[0], vocab, chunks, case.indices)
    temperature = _pair(case.temperature)
    columns: tuple[Any, ...] = (None,) * 6 if stats is None else stats
    processors, warp = _device(logits.device)
    splits = programs(case.rows, chunks, THREADS // share(stats is not None), processors)
    kernels.chunk_statistics[case.rows, splits](
        *row,
        *temperature,
        tops,
        sums,
        scratch,
        words,
        **first_constants(stats is not None),
        num_warps=THREADS // warp,
        enable_fp_fusion=False,
    )
    kernels.finish_rows[case.rows,](
        *row,
        *temperature,
        *_pair(case.top_k),
        *_pair(case.top_p),
        *_pair(case.min_p),
        *_pair(case.seed),
        case.stream,
        *_pair(case.position),
        tops,
        sums,
        listing,
        scratch,
        words,
        tokens,
        *columns,
        **second_constants(stats is not None, chunks, logits.dtype),
        num_warps=FINISHERS // warp,
        enable_fp_fusion=False,
    )


def _pair(value: float | Tensor) -> tuple[float, Tensor | None]:
    return (0 if value.dtype != torch.float32 else 0.0, value) if isinstance(value, Tensor) else (value, None)
