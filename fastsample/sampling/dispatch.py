"""Which backend draws: by device, the first without an objection. The one place that runs it and reads the result."""

from __future__ import annotations

import importlib
import types
from functools import cache

import torch
from torch import Tensor

from .. import fallback
from .contract import Case, Stats, raise_for_invalid

# By device: the first backend without an objection is taken. Nothing is imported before it is asked.
BACKENDS = {
    "cpu": "fastsample.sampling.backends.cpu",
    "triton": "fastsample.sampling.backends.triton.launch",
    "cuda": "fastsample.sampling.backends.cuda",
    "reference": "fastsample.sampling.reference",
}
ORDER = {"cpu": ("cpu", "reference")}
ORDER_ELSEWHERE = ("cuda", "triton", "reference")
_loaded: dict[str, types.ModuleType] = {}


def run(case: Case, tokens: Tensor, stats: Stats | None, backend: str | None) -> None:
    """Fill tokens and stats with a backend. raises: ValueError for values out of range and invalid rows, on a CPU."""
    on_cpu = case.logits.device.type == "cpu"
    if on_cpu:
        case.check_values()
    if case.rows == 0:
        return
    invalid = backend_for(case, backend).sample(case, tokens, stats)
    if on_cpu and invalid:
        raise_for_invalid(tokens, case)


def run_distribution(case: Case, backend: str | None) -> Tensor:
    """The probabilities of a case, [B, V] float32. raises: as `run`"""
    case.check_values()
    dense = torch.empty(case.rows, case.logits.shape[1], dtype=torch.float32, device=case.logits.device)
    if backend_for(case, backend, "distribution").distribution(case, dense):
        raise_for_invalid(torch.where(dense[:, 0].isnan(), -1, 0), case)
    return dense


def backend_for(case: Case, name: str | None, does: str = "sample") -> types.ModuleType:
    """The backend called `name`, or the first that can run the case. raises: ValueError with its own objection"""
    if name is not None:
        if name not in BACKENDS:
            raise ValueError(f"backend must be None or one of {', '.join(BACKENDS)}, got {name!r}")
        module = load_backend(name)
        objection = module.why_not(case) or (None if hasattr(module, does) else f"it has no {does}")
        if objection:
            raise ValueError(f"backend {name!r} cannot run: {objection}")
        return module
    refused: list[str] = []
    for candidate in ORDER.get(case.logits.device.type, ORDER_ELSEWHERE):
        module = load_backend(candidate)
        objection = module.why_not(case)
        if hasattr(module, does) and objection is None:
            if candidate == "reference" and refused:
                _say(case.logits.device.type, tuple(refused))
            return module
        if objection is not None:
            refused.append(f"{candidate} cannot ({objection})")
    raise AssertionError("the reference has no objection")


@cache
def _say(device: str, refused: tuple[str, ...]) -> None:
    """Once for each reason: the reference works row by row in numpy, hundreds of times slower than a kernel."""
    fallback.warn(
        f"tokens are drawn by the reference, row by row and hundreds of times slower than by a kernel for {device}: "
        + ", ".join(refused)
    )


def load_backend(name: str) -> types.ModuleType:
    """The backend's module: `name`, `why_not(case)`, `sample(case, tokens, stats)`, `distribution(case, out)`."""
    module = _loaded.get(name)
    if module is None:
        module = _loaded[name] = importlib.import_module(BACKENDS[name])
    return module
