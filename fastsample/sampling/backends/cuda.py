"""The CUDA C++ backend: hands pointers to the compiled extension. One launch, no synchronisation."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..contract import CHUNK, Case
from .arguments import addresses, arguments
from .workspace import Workspaces

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
    """Binaries run on their own major architecture from their own minor on; the PTX of the last on everything newer.

    A driver runs what was built with its own major version of CUDA, or an older one.
    """
    driver, toolkit = _cuda.driver_version(), _cuda.toolkit_version()
    if driver // 1000 < toolkit // 1000:
        return (
            f"the driver knows CUDA {_version(driver)}, and the extension was built with {_version(toolkit)}; "
            "update the driver, or reinstall fastsample with an older nvcc on the PATH"
        )
    major, minor = torch.cuda.get_device_capability(index)
    built = [(int(a.rstrip("a")[:-1]), int(a.rstrip("a")[-1]), a.endswith("a")) for a in _cuda.architectures.split()]
    is_served = (major, minor) >= built[-1][:2] or any(
        major == m and (minor == n if is_exact else minor >= n) for m, n, is_exact in built
    )
    if not is_served:
        names = ", ".join(f"sm_{a}" for a in _cuda.architectures.split())
        return f"the extension was built for {names}, and the GPU is sm_{major}{minor}"
    return None


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


# tops and sums: a value a chunk; moments: three a chunk, of statistics; ticket: a value a row, zero between launches
_workspaces = Workspaces((torch.float32, torch.int64, torch.float32, torch.int32), zeroed=(3,))


@lru_cache(None)
def _multiprocessors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def sample(case: Case, tokens: Tensor, stats: tuple[Tensor, ...] | None) -> None:
    """Fill tokens [B] int64 and the tensors of `Stats`; how many rows are invalid only the device knows."""
    logits = case.logits
    with torch.cuda.device(logits.device):
        stream = torch.cuda.current_stream().cuda_stream
        need = case.rows * -(-logits.shape[1] // CHUNK)
        space = _workspaces.get(logits.device, stream, (need, need, 0 if stats is None else 3 * need, case.rows))
        splits = _cuda.splits_for(case.rows, logits.shape[1], _multiprocessors(logits.device.index or 0))
        work = (*(t.data_ptr() for t in space), splits)
        code = _cuda.sample(arguments(case), tokens.data_ptr(), addresses(stats), work, stream)
    if code:
        raise RuntimeError(f"the CUDA kernel could not be launched: {_cuda.error_name(code)} (error {code})")
