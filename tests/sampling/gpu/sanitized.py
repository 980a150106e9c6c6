"""What `test_ttsem.py` runs in a process of its own: the Triton kernels' IR under ttsem's sanitizer.

It stops at an access outside of a tensor, at an operation without a defined result, at a race between programs.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from fastsample.sampling.backends.triton import launch as backend
from fastsample.sampling.contract import Case
from sampling.cases import assert_same, run

CALLS = {
    "a tail, no filter": (300, {}),
    "a whole tile and a tail": (4400, dict(top_p=0.9)),
    "all filters": (700, dict(top_k=40, top_p=0.8, min_p=0.05, temperature=0.7)),
    "greedy": (257, dict(temperature=0.0)),
}


@pytest.fixture(autouse=True)
def _no_device(monkeypatch):
    """The sanitizer calls CPU tensors CUDA ones; what torch would ask the driver has one answer."""
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: SimpleNamespace(cuda_stream=0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(backend, "_device", lambda device: (1, 32, None))


@pytest.mark.parametrize("call", CALLS)
def test_sanitized(call):
    """Tokens and statistics of the reference, from two rows read through indices."""
    vocab, parameters = CALLS[call]
    x = torch.randn(2, vocab, generator=torch.Generator().manual_seed(vocab)) * 3
    parameters = parameters | dict(indices=torch.tensor([1, 0]), seed=torch.tensor([3, 4]))
    assert_same(run("reference", x, **parameters), run("triton", x, **parameters), call)


def test_a_fault_is_seen():
    """Two rows whose tokens have room for one."""
    case = Case.of(torch.zeros(2, 8), 0.0, 0, 1.0, 0.0, 0, None, 0, None)
    with pytest.raises(Exception, match="finish_rows"):
        backend.sample(case, torch.empty(1, dtype=torch.int64), None)
