"""The compiled PTX of both GPU backends, executed on the CPU: equal to the reference, every finding explained."""

import importlib.util
import shutil

import pytest
import torch

from fastsample.sampling.backends.triton import launch as backend
from fastsample.sampling.contract import CHUNK
from fastsample.sampling.dispatch import load_backend
from fastsample.sampling.edits import edited
from sampling.cases import unchecked, vectors

from . import cuda_ptx, draws, proof, ptx

pytestmark = pytest.mark.skipif(not ptx.EMULATOR.exists(), reason=ptx.MISSING)
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason=cuda_ptx.NO_NVCC)
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def small_vectors(step):
    return [draws.of_vector(v, 1) for v in vectors() if v.logits.shape[1] <= 4096][::step]


@needs_nvcc
@pytest.mark.parametrize("arch", ["80", "90", "120"])
def test_cuda(arch):
    """Vectors and hostile rows, under several schedules and splits of a row; no finding at all."""
    todo = small_vectors(12) + draws.hostile((257, 5000), 2, int(arch[:2]))[:: 1 if arch == "90" else 4]
    for i, d in enumerate(todo):
        tokens, stats = draws.blank(d.case)
        r = cuda_ptx.sample(d.case, tokens, stats, arch, seed=1 + i % 5, splits=1 + i % 3)
        assert not draws.differs(d, tokens, stats), (d.name, tokens, d.tokens)
        assert not r.findings, (d.name, r.findings)


@needs_nvcc
def test_cuda_half_precision():
    """bfloat16 and float16 rows."""
    for d in draws.hostile((1000,), 2, 5, (torch.bfloat16, torch.float16)):
        tokens, stats = draws.blank(d.case)
        r = cuda_ptx.sample(d.case, tokens, stats)
        assert not draws.differs(d, tokens, stats), (d.name, tokens, d.tokens)
        assert not r.findings, (d.name, r.findings)


@needs_nvcc
def test_cuda_parameters_out_of_range():
    """Token -1 and a status of its own, whatever stands beside it; the last allowed values draw."""
    case, codes = unchecked(torch.randn(1, 600, generator=torch.Generator().manual_seed(1)) * 3)
    expected, _ = draws.blank(case)
    load_backend("cpu").sample(case, expected, None)
    tokens, stats = draws.blank(case)
    assert not cuda_ptx.sample(case, tokens, stats, races=False).findings
    assert tokens.tolist() == expected.tolist()
    assert stats.status.tolist() == codes


@needs_triton
@pytest.mark.parametrize("arch", [*ptx.ARCHITECTURES, 100])
def test_triton(arch):
    """The same for the two Triton kernels, whose shared-memory reductions write equal values twice; sm_100 also packs
    two float32 operations into one."""
    todo = small_vectors(8 if arch == 90 else 24) + draws.hostile((1000,), 2, arch)[:: 1 if arch == 90 else 4]
    for i, d in enumerate(todo):
        tokens, stats = draws.blank(d.case)
        stats = None if i % 4 == 3 else stats  # without statistics the kernels are others
        findings = ptx.sample(d.case, tokens, stats, arch, seed=1 + i % 5)
        assert not draws.differs(d, tokens, stats), (d.name, tokens, d.tokens)
        assert not findings, (d.name, findings)


@needs_triton
@pytest.mark.parametrize("arch", ptx.ARCHITECTURES)
def test_triton_sees_every_nan(arch):
    """Wherever the one NaN of a row is, in a whole tile or in the tail; sm_120 takes maxima of three."""
    places = torch.arange(0, 4400, 113)
    n = len(places)
    x = torch.randn(n, 4400)
    x[torch.arange(n), places] = float("nan")
    draw = dict.fromkeys(("seed", "stream", "position", "indices"), torch.arange(n))
    case = draws.case_of(x, draws.OFF, draw)
    tokens, _ = draws.blank(case)
    ptx.sample(case, tokens, None, arch, races=False)
    assert tokens.tolist() == [-1] * n


@needs_triton
def test_triton_reads_no_chunk_beyond_the_row():
    """Fewer tokens above -inf than top_k keeps, so that all that reaches the cut is asked for; several rows, as each
    one's memory lies before the next one's."""
    x = torch.full((1, 31), float("-inf"))
    x[0, ::3] = torch.randn(11, generator=torch.Generator().manual_seed(1))
    rows = torch.arange(4)
    parameters = dict(temperature=1.0, top_k=20, top_p=0.8, min_p=0.0)
    case = draws.case_of(x, parameters, dict(seed=rows, stream=rows, position=rows, indices=torch.zeros_like(rows)))
    expected, _ = draws.blank(case)
    load_backend("cpu").sample(case, expected, None)
    tokens, stats = draws.blank(case)
    assert not ptx.sample(case, tokens, stats)
    assert tokens.tolist() == expected.tolist()


@needs_triton
def test_triton_comes_to_an_end():
    """A cut far down in the tail, which float32 sums put above a window that then stayed as it was for ever."""
    d = proof.hostile(1105)[1]
    tokens, _ = draws.blank(d.case)
    assert not ptx.sample(d.case, tokens, None, races=False)
    assert not draws.differs(d, tokens, None), d.name


@needs_triton
def test_triton_half_precision():
    """bfloat16 and float16 rows, whose ranks leave out the bits that they do not use."""
    for d in draws.hostile((1000, 5000), 2, 5, (torch.bfloat16, torch.float16))[::3]:
        tokens, _ = draws.blank(d.case)
        findings = ptx.sample(d.case, tokens, None)
        assert not draws.differs(d, tokens, None), (d.name, tokens, d.tokens)
        assert not findings, (d.name, findings)


@needs_triton
@pytest.mark.parametrize("arch", ptx.ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_triton_edits(dtype, arch):
    """Penalties, biases and bitmasks in the compiled code: every value as defined, and no finding."""
    for case in draws.edited_cases(dtype):
        vocab = case.logits.shape[1]
        rows = torch.zeros(4, -(-vocab // 8) * 8, dtype=dtype)[:, :vocab]
        assert not ptx.edit(case, rows, arch)
        assert torch.equal(rows, edited(case.logits[case.indices], case.edits, case.allowed)), (vocab, dtype)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_at_an_odd_address_is_read_by_vectors_too(dtype):
    """Every byte is asked for once; of a warp's two chunks a vector each is read logit by logit, together."""
    d, stats = draws.draws("normal", 32768, 1, 1, dtype), []
    for n in (0, 1):
        case = draws.displaced(d, n).case
        first = ptx.launch_first(case, None, ptx.arguments_of(case, None, None), arch=90, seed=1, races=False, splits=3)
        assert not ptx.unexplained(first)
        stats.append(first.stat)
    assert stats[0]["ld_bytes"] == stats[1]["ld_bytes"]
    more = 32768 // CHUNK // 2 * (16 // dtype.itemsize)
    assert stats[0]["ld_requests"] < stats[1]["ld_requests"] <= stats[0]["ld_requests"] + more


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_row_is_read_once(dtype):
    """The first kernel asks for exactly the row's sectors, and beside them for its parameters' once a warp."""
    d = draws.draws("normal", 32768, 1, 1, dtype)
    case = d.case._replace(logits=d.case.logits.clone())  # torch's memory starts at a sector, numpy's may not
    first = ptx.launch_first(case, None, ptx.arguments_of(case, None, None), arch=90, seed=1, races=False, splits=3)
    parameters = 5 * 3 * backend.THREADS // 32  # the filters' and the index, of three programs
    assert 0 < first.stat["ld_sectors"] - 32768 * dtype.itemsize // 32 <= parameters
