"""The CUDA kernel's PTX, as nvcc compiles it, run on the emulator of `ptx.py`."""

from __future__ import annotations

import ctypes as C
import functools
import subprocess
import tempfile
from pathlib import Path

import torch

from fastsample.sampling.backends.arguments import DTYPE_CODES
from fastsample.sampling.contract import CHUNK, Case, Stats

from .ptx import ROOT, emulator, loaded

NO_NVCC = "nvcc is not on the PATH"


def column(kind):
    return type(f"Column_{kind.__name__}", (C.Structure,), {"_fields_": [("value", kind), ("rows", C.c_void_p)]})


class Call(C.Structure):
    """csrc/args.h, field by field."""

    _fields_ = (
        ("logits", C.c_void_p),
        ("dtype", C.c_int),
        ("count", C.c_int64),
        ("rows", C.c_int64),
        ("vocab", C.c_int64),
        ("row_stride", C.c_int64),
        ("temperature", column(C.c_float)),
        ("top_k", column(C.c_int32)),
        ("top_p", column(C.c_float)),
        ("min_p", column(C.c_float)),
        ("seed", column(C.c_int64)),
        ("stream", C.c_void_p),
        ("position", column(C.c_int64)),
        ("indices", C.c_void_p),
        ("tokens", C.c_void_p),
        ("stats", C.c_void_p * 6),
        ("probabilities", C.c_void_p),
    )


class Workspace(C.Structure):
    _fields_ = (("pointers", C.c_void_p * 4), ("splits", C.c_int))


@functools.lru_cache(None)
def compiled(arch: str, root: Path = ROOT) -> str:
    """PTX of the kernel for every dtype; `root` holds csrc. Of a changed copy: of float32 with statistics alone."""
    with tempfile.TemporaryDirectory() as folder:
        out, source = Path(folder, "sample.ptx"), root / "csrc/cuda/sample.cu"
        if root != ROOT:
            source = Path(folder, "one.cu")
            kernel = "sample_kernel<Dtype::kFloat32, true>(Call, Workspace)"
            body = f"namespace fastsample::cuda {{ template __global__ void {kernel}; }}"
            source.write_text(f'#include "{root}/csrc/cuda/kernel.cuh"\n{body}\n')
        flags = ["-std=c++17", "-O3", "--fmad=false", "-lineinfo", f"-arch=compute_{arch}", "-ptx"]
        subprocess.run(["nvcc", *flags, str(source), "-o", str(out)], check=True)
        return out.read_text()


def sample(case: Case, tokens, stats: Stats | None, arch="90a", seed=1, splits=3, races=True, root: Path = ROOT):
    """`backends.cuda.sample` on the emulator: its findings and counters."""
    E = emulator()
    module = loaded(compiled(arch, root))
    chunks = -(-case.logits.shape[1] // CHUNK)
    need = case.rows * chunks
    written = [torch.empty(need), torch.empty(need, dtype=torch.int64), torch.empty(3 * need)]
    ticket = torch.zeros(case.rows, dtype=torch.int32)
    memory = [(case.logits, 1), *((t, 2) for t in written), (ticket, 0), (tokens, 2), *((t, 2) for t in stats or ())]
    call = Call(logits=case.logits.data_ptr(), dtype=DTYPE_CODES[case.logits.dtype], rows=case.rows)
    call.count, call.vocab = case.logits.shape
    call.row_stride, call.tokens = case.logits.stride(0), tokens.data_ptr()
    for name in ("temperature", "top_k", "top_p", "min_p", "seed", "position", "stream", "indices"):
        value = getattr(case, name)
        if isinstance(value, torch.Tensor):
            memory.append((value, 1))
        if name in ("stream", "indices"):
            setattr(call, name, None if value is None else value.data_ptr())
        elif isinstance(value, torch.Tensor):
            getattr(call, name).rows = value.data_ptr()
        else:
            getattr(call, name).value = value
    if stats is not None:
        call.stats = (C.c_void_p * 6)(*(t.data_ptr() for t in stats))
    space = Workspace((C.c_void_p * 4)(*(t.data_ptr() for t in written), ticket.data_ptr()), splits)
    wanted = f"DtypeE{DTYPE_CODES[case.logits.dtype]}ELb{int(stats is not None)}E"
    kernel = module.find(wanted)
    places = [offset for offset, _ in module.kernels[kernel]["params"]]
    blob = bytearray(places[1] + C.sizeof(Workspace))
    for place, argument in zip(places, (call, space)):
        blob[place : place + C.sizeof(argument)] = bytes(argument)
    storages = [(t.untyped_storage(), flags) for t, flags in memory]
    allocations = (E.CAlloc * len(storages))(
        *(E.CAlloc(s.data_ptr(), s.nbytes(), flags, 0, f"arg{i}".encode()) for i, (s, flags) in enumerate(storages))
    )
    shape = [(C.c_int * 3)(n, 1, 1) for n in (case.rows * splits, 256, 1)]
    launch = E.CLaunch(*shape, int(races), 20, 32, 24, 1, 0, seed, 10**10)
    code = E.L.ptx_launch(
        module.h, kernel.encode(), C.byref(launch), bytes(blob), len(blob), allocations, len(storages)
    )
    if code < 0:
        raise RuntimeError("the emulator: " + E.L.ptx_error().decode())
    assert not ticket.any(), "a ticket did not reset itself"
    return E.Result(code, E.L.ptx_report().decode(), 0.0)
