"""The Triton kernels compiled for AMD: nothing in their source is NVIDIA's own."""

import pytest
import torch

from fastsample.sampling.backends.triton import launch as backend

from . import ptx

triton = pytest.importorskip("triton", reason="triton is not installed")


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "warp", "dtype"), [("gfx942", 64, torch.bfloat16), ("gfx1100", 32, torch.float32)])
def test_compiles_for_amd(arch, warp, dtype):
    """Both kernels become code objects: nothing is spilled to memory, the row is loaded 16 bytes at a time."""
    if "amd" not in triton.backends.backends:
        pytest.skip("this triton was built without its AMD backend")
    from triton.backends.compiler import GPUTarget

    from fastsample.sampling.backends.triton import kernels as kernels

    target = GPUTarget("hip", arch, warp)
    one, two = backend.first_constants(False), backend.second_constants(False, 64, dtype)
    first, _ = ptx.compile_for(target, kernels.chunk_statistics, dtype, backend.THREADS, **one)
    second, _ = ptx.compile_for(target, kernels.finish_rows, dtype, backend.FINISHERS, **two)
    for kernel in (first, second):
        assert kernel.asm["hsaco"]
        assert ".vgpr_spill_count: 0" in kernel.asm["amdgcn"]
        assert ".private_segment_fixed_size: 0" in kernel.asm["amdgcn"]
    assert any(wide in first.asm["amdgcn"] for wide in ("load_dwordx4", "load_b128"))
