"""What the GPU backends say and do on a machine without a GPU."""

import subprocess
import sys

import pytest
import torch

import fastsample
from fastsample import sampling
from fastsample.backends import triton as backend


@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_a_cpu_tensor_is_refused(name):
    """By name a GPU backend refuses with its sentence; it never falls back in silence."""
    with pytest.raises(ValueError, match=f"backend '{name}' cannot run: "):
        fastsample.sample(torch.zeros(1, 8), backend=name)


def test_distribution_goes_to_a_backend_that_has_it(monkeypatch):
    """Where the fastest backend only samples, the next one gives the probabilities."""
    monkeypatch.setitem(sampling.ORDER, "cpu", ("triton", "reference"))
    monkeypatch.setattr(backend, "why_not", lambda case: None)
    p = fastsample.distribution(torch.tensor([[0.0, 0.0]]))
    assert p.tolist() == [[0.5, 0.5]]
    with pytest.raises(ValueError, match="it has no distribution"):
        fastsample.distribution(torch.zeros(1, 2), backend="triton")


def test_import_does_not_bring_triton():
    """Neither the package, nor info, nor a refusal imports triton."""
    code = (
        "import sys, torch, fastsample; before = 'triton' in sys.modules; fastsample.info();"
        "fastsample.sample(torch.zeros(1, 4)); assert before or 'triton' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_workspace_is_within_its_limit():
    """16 bytes per 256 tokens and row, and 64 kB a row: at the largest vocabulary."""
    assert backend.scratch_words(backend.MAX_VOCAB // 256) * 4 <= 64 * 1024
    assert backend.scratch_words(1) * 4 == backend.CAPACITY * 8


def test_the_extension_is_harmless_without_a_driver():
    """Where it was built, it imports; a launch gives an error code and no crash."""
    extension = pytest.importorskip("fastsample._cuda", reason="the CUDA extension was not built: nvcc was not found")
    assert extension.splits_for(1, 151_936, 132) == 19
    assert extension.splits_for(1024, 151_936, 132) == 1
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    call = (0, 0, 1, 8, 8, *([0, 0] * 8))
    code = extension.sample(call, 0, (0,) * 6, (0, 0, 0, 0, 1), 1, 0)
    assert code != 0
    assert extension.error_name(code)
