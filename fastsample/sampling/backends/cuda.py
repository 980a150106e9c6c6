"""The CUDA C++ backend: hands pointers to the compiled extension. Two launches, or three, no synchronisation."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..contract import CHUNK, Case
from .arguments import addresses, arguments, edit_arguments
from .workspace import room_for_edited

try:
    from . import _cuda  # type: ignore[attr-defined]  # compiled
except ImportError as error:  # built without nvcc, or a wheel of another platform
    _cuda: Any = None  # type: ignore[no-redef]
    _missing = f"the compiled extension is missing ({error}); reinstall fastsample with nvcc on the PATH"

name = "cuda"
MAX_VOCAB = 2**20


def why_not(case: Case) -> str | None:
    """Why the backend cannot run the case here, in one sentence, or None."""
    if _cuda is None:
        return _missing
    device = case.logits.device
    if device.type != "cuda" or torch.version.hip is not None:
        where = "an AMD GPU" if torch.version.hip is not None and device.type == "cuda" else str(device)
        return f"the logits are on {where}, not on an NVIDIA GPU"
    if case.logits.shape[1] > MAX_VOCAB:
        return f"the vocabulary must be at most {MAX_VOCAB}, got {case.logits.shape[1]}"
    return _device_objection(device.index or 0)


@lru_cache(None)
def _device_objection(index: int) -> str | None:
    """Binaries run on their own major architecture from their own minor on; PTX on everything newer.

    A driver runs what was built with its own major version of CUDA, or an older one.
    """
    driver, toolkit = _cuda.driver_version(), _cuda.toolkit_version()
    if driver // 1000 < toolkit // 1000:
        return (
            f"the driver knows CUDA {_version(driver)}, and the extension was built with {_version(toolkit)}; "
            "update the driver, or reinstall fastsample with an older nvcc on the PATH"
        )
    major, minor = torch.cuda.get_device_capability(index)
    built = [(is_ptx, divmod(int(number), 10)) for is_ptx, number in map(_split, _cuda.architectures.split())]
    is_served = any((major, minor) >= own and (is_ptx or major == own[0]) for is_ptx, own in built)
    if not is_served:
        names = ", ".join(a if _split(a)[0] else f"sm_{a}" for a in _cuda.architectures.split())
        return f"the extension was built for {names}, and the GPU is sm_{major}{minor}"
    return None


def _split(architecture: str) -> tuple[bool, str]:
    """Whether it is PTX, and its number: "compute_90" is, "90" is not."""
    number = architecture.removeprefix("compute_")
    return number != architecture, number


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


@lru_cache(None)
def _blocks(index: int) -> int:
    """Blocks of the first kernel that a device runs at once (csrc/cuda/kernel.cuh has as many registers for each)."""
    device = torch.cuda.get_device_properties(index)
    is_small = (device.major, device.minor) in ((8, 6), (8, 9)) or device.major >= 12
    return device.multi_processor_count * (3 if is_small else 4)


def sample(case: Case, tokens: Tensor, stats: tuple[Tensor, ...] | None, splits: int = 0, team: int = 0) -> None:
    """Fill tokens [B] int64 and the tensors of `Stats`; how many rows are invalid only the device knows.

    splits, team: how many blocks read a row and how many finish it, where a benchmark wants to choose it.
    """
    logits = case.logits
    with torch.cuda.device(logits.device):
        stream = torch.cuda.current_stream().cuda_stream
        if case.is_edited:
            case = _edited(case, stream)
            logits = case.logits
        chunks = case.rows * -(-logits.shape[1] // CHUNK)
        # Of this call alone: what outlives a call comes from a graph's own memory in a capture, and is lost with it.
        space = torch.empty((1 if stats is None else 2) * 12 * chunks, dtype=torch.uint8, device=logits.device)
        splits = splits or _cuda.splits_for(case.rows, logits.shape[1], _blocks(logits.device.index or 0))
        work = (space.data_ptr(), splits, team)
        code = _cuda.sample(arguments(case), tokens.data_ptr(), addresses(stats), work, stream)
    _check(code)


def _edited(case: Case, stream: int) -> Case:
    """The same draws from rows that a launch of its own edits into memory of this call."""
    rows = room_for_edited(case)
    _check(_cuda.edit(arguments(case), edit_arguments(case), rows.data_ptr(), rows.stride(0), stream))
    return case.of_edited(rows)


def _check(code: int) -> None:
    if code:
        raise RuntimeError(f"the CUDA kernel could not be launched: {_cuda.error_name(code)} (error {code})")
