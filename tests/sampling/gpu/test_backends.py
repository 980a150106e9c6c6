"""What the GPU backends say and do on a machine without a GPU."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fastsample
from fastsample.sampling import dispatch
from fastsample.sampling.backends import cuda
from fastsample.sampling.backends.triton import launch as backend


@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_a_cpu_tensor_is_refused(name):
    """By name a GPU backend refuses with its sentence; it never falls back in silence."""
    with pytest.raises(ValueError, match=f"backend '{name}' cannot run: "):
        fastsample.sample(torch.zeros(1, 8), backend=name)


def test_distribution_goes_to_a_backend_that_has_it(monkeypatch):
    """Where the fastest backend only samples, the next one gives the probabilities."""
    monkeypatch.setitem(dispatch.ORDER, "cpu", ("triton", "reference"))
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
    """Scratch memory of a row: 64 bytes or less for each chunk, and 20 kB."""
    for vocab in (1, 151_936, backend.MAX_VOCAB):
        chunks = backend.chunks_of(vocab)
        assert backend.words(chunks, True) * 8 <= 64 * chunks + 24 * 1024


def test_the_extension_is_harmless_without_a_driver():
    """Where it was built, it imports; a launch gives an error code and no crash."""
    extension = pytest.importorskip(
        "fastsample.sampling.backends._cuda", reason="the CUDA extension was not built: nvcc was not found"
    )
    assert extension.splits_for(1, 151_936, 528) == 19  # no block without a chunk of its own
    assert extension.splits_for(64, 151_936, 528) == 8  # 512 blocks and not 576, of which 48 would run alone
    assert extension.splits_for(1024, 151_936, 528) == 1
    rows = (1, 16, 17, 33, 34, 66, 67, 2**31)  # of a team's blocks no two on one of 132 multiprocessors
    assert [extension.team_for(n, 132, 8) for n in rows] == [8, 8, 4, 4, 2, 2, 1, 1]
    assert [extension.team_for(n, 132, 2) for n in rows] == [2, 2, 2, 2, 2, 2, 1, 1]
    assert extension.team_for(1, 108, 1) == 1  # without clusters
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    call = (0, 0, 1, 1, 8, 8, *([0, 0] * 8))
    code = extension.sample(call, 0, (0,) * 6, (0, 1, 0), 0)
    assert code != 0
    assert extension.error_name(code)
    many = extension.sample((0, 0, 1, 2**32 + 1, *call[4:]), 0, (0,) * 6, (0, 1, 0), 0)
    assert "configuration" in extension.error_name(many)


@pytest.mark.parametrize(
    ("driver", "capability", "sentence"),
    [
        (13000, (9, 0), None),
        (13020, (8, 7), None),
        (13000, (10, 3), None),
        (13000, (11, 0), None),
        (14000, (12, 1), None),
        (12040, (9, 0), "the driver knows CUDA 12.4, and the extension was built with 13.0; update the driver"),
        (13000, (7, 5), "the extension was built for sm_80, sm_100, compute_90, and the GPU is sm_75"),
        (13000, (8, 0), None),
    ],
)
def test_what_the_extension_cannot_run_on(monkeypatch, driver, capability, sentence):
    """A driver of an older CUDA and an architecture without a binary are told, not tried; PTX serves what is newer."""
    names = "80 100 compute_90"
    built = SimpleNamespace(architectures=names, driver_version=lambda: driver, toolkit_version=lambda: 13000)
    monkeypatch.setattr(cuda, "_cuda", built)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    cuda._device_objection.cache_clear()
    found = cuda._device_objection(0)
    cuda._device_objection.cache_clear()
    assert found is None if sentence is None else found.startswith(sentence)


def test_the_first_day_says_that_there_is_no_gpu():
    """bench/gpu_first.py imports what it needs and ends with a sentence; its shell script can be read by bash."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    bench = Path(__file__).resolve().parents[3] / "bench"
    said = subprocess.run([sys.executable, bench / "gpu_first.py"], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr.strip()) == (1, "nothing was measured: there is no GPU here")
    subprocess.run(["bash", "-n", bench / "gpu_first.sh"], check=True)
