"""The Triton backend: two launches, no synchronisation, one tensor of scratch memory that belongs to the call.

Edited rows are written first, by a launch or two more, into memory of the call.
"""

from __future__ import annotations

import functools
import sys
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ...contract import CHUNK, Case
from ...values import DTYPES
from ..workspace import room_for_edited

name = "triton"
MAX_VOCAB = 2**20
CAPACITY = 512  # candidates among which a row's cut is found
BINS, PLACES = 256, 8  # words of a row: see rows.py
THREADS = 128  # of a program of the first kernel
FINISHERS = 128  # threads of a program of the second kernel
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


def share(with_stats: bool) -> int:
    """Threads that read a chunk together: the fewer, the less is shuffled, but statistics need registers.

    Witness: bench/kernel_cost.py. 8 instead of 16 takes a fifth off the issue slots; with statistics it would take
    96 registers, with which less than half of a multiprocessor's warps are resident.
    """
    return 16 if with_stats else 8


def first_constants(with_stats: bool) -> dict[str, Any]:
    """Compile-time constants of the first kernel."""
    return dict(WITH_STATS=with_stats, CAPACITY=CAPACITY, THREADS=THREADS, SHARE=share(with_stats))


def second_constants(with_stats: bool, chunks: int, dtype: torch.dtype) -> dict[str, Any]:
    """Compile-time constants of the second kernel."""
    block = max(256, 1 << (chunks - 1).bit_length())  # few kernels for all sizes
    return dict(WITH_STATS=with_stats, CAPACITY=CAPACITY, BLOCK=block, SHIFT=SHIFT[dtype])


def second_options(major: int | None) -> dict[str, int]:
    """Compile options of the second kernel, by the compute capability of an NVIDIA device; None for others.

    Of a program that needs 170 to 200 registers these compilers make one of 168, for the sake of a third program on a
    multiprocessor, and spill the rest. Allowed all of them, they spill nothing or little; sm_100's spills more then.
    Witness: bench/kernel_cost.py.
    """
    return dict(maxnreg=255) if major in (8, 9, 12) else {}


def chunks_of(vocab: int) -> int:
    """Chunks of a row, the last of which may be short."""
    return -(-vocab // CHUNK)


def words(chunks: int, with_stats: bool) -> int:
    """8-byte words of scratch memory a row (`rows.space_of`): 35 kB for 151,936 tokens, 7 more with statistics."""
    whole = chunks + 3 * CAPACITY + BINS + PLACES
    halves = 3 * CAPACITY + (7 if with_stats else 4) * chunks
    return whole + -(-halves // 2)


def programs(rows: int, chunks: int, tile: int, processors: int) -> int:
    """Programs of the first kernel for each row: enough to fill the device, none without a tile of chunks."""
    return max(1, min(-(-RESIDENT * processors // rows), -(-chunks // tile)))


@functools.lru_cache(None)
def _device(device: torch.device) -> tuple[int, int, int | None]:
    """Multiprocessors, threads of a warp, and the major compute capability of an NVIDIA device. The interpreter has
    none: a few programs show what many would."""
    if device.type == "cpu":
        return 1, 32, None
    properties = torch.cuda.get_device_properties(device)
    warp = getattr(properties, "warp_size", 32)  # torch 2.4 does not say
    return properties.multi_processor_count, warp, None if torch.version.hip else properties.major


def sample(case: Case, tokens: Tensor, stats: tuple[Tensor, ...] | None) -> int | None:
    """Fill tokens [B] int64 and the tensors of `Stats`; None: how many rows are invalid only the device knows."""
    device = case.logits.device
    if device.type == "cuda":
        with torch.cuda.device(device):
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

    with_stats, chunks = stats is not None, chunks_of(case.logits.shape[1])
    # Of this call alone: what outlives a call comes from a graph's own memory in a capture, and is lost with it.
    memory = torch.empty(case.rows * words(chunks, with_stats), dtype=torch.int64, device=case.logits.device)
    given = arguments(case, memory, with_stats)
    processors, warp, major = _device(case.logits.device)
    splits = programs(case.rows, chunks, THREADS // share(with_stats), processors)
    kernels.chunk_statistics[case.rows, splits](
        *given, **first_constants(with_stats), num_warps=THREADS // warp, enable_fp_fusion=False
    )
    kernels.finish_rows[case.rows,](
        *given,
        tokens,
        *((None,) * 6 if stats is None else stats),
        **second_constants(with_stats, chunks, case.logits.dtype),
        num_warps=FINISHERS // warp,
        enable_fp_fusion=False,
        **second_options(major),
    )


def arguments(case: Case, memory: Tensor, with_stats: bool) -> tuple[Any, ...]:
    """What both kernels are given first: in their order, and of the same types in every call.

    Where a parameter is no column, some memory of the column's type stands in its place, and is not read.
    """
    logits, flags = case.logits, 0
    blank = {torch.int64: memory, torch.float32: memory.view(torch.float32), torch.int32: memory.view(torch.int32)}
    parameters: list[Any] = []
    for i, name in enumerate(PARAMETERS):
        value = getattr(case, name)
        is_column = isinstance(value, Tensor)
        flags |= is_column << i
        if name not in ("indices", "stream"):
            parameters.append(0 if is_column else value)
        parameters.append(value if is_column else blank[TYPES[name]])
    shape = (logits.stride(0), *logits.shape, flags)
    return (logits, *shape, *parameters, memory, words(chunks_of(logits.shape[1]), with_stats))


# In the order of the kernels' arguments and of the bits of `given` (kernels.py).
PARAMETERS = ("indices", "temperature", "top_k", "top_p", "min_p", "seed", "stream", "position")
TYPES = DTYPES | dict(indices=torch.int64, stream=torch.int64)
