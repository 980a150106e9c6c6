"""The CUDA kernel's PTX, as nvcc compiles it, run on the emulator of `ptx.py`."""

from __future__ import annotations

import ctypes as C
import functools
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastsample.sampling.backends.arguments import DTYPE_CODES
from fastsample.sampling.contract import CHUNK, Case, Stats
from fastsample.sampling.edits import EditColumns

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
    _fields_ = (*((name, C.c_void_p) for name in ("sums", "tops", "moments")), ("splits", C.c_int), ("team", C.c_int))


class Edits(C.Structure):
    """csrc/args.h too."""

    _fields_ = (
        ("entries", C.c_int64),
        *((name, C.c_void_p) for name in (*EditColumns._fields, "allowed")),
        ("allowed_stride", C.c_int64),
    )


class Copies(C.Structure):
    _fields_ = (("rows", C.c_void_p), ("stride", C.c_int64), ("splits", C.c_int))


@functools.lru_cache(None)
def compiled(arch: str, root: Path = ROOT) -> str:
    """PTX of the kernels for every dtype, kept in the temporary folder; `root` holds csrc.

    Of a changed copy: of float32 with statistics alone, and not kept.
    """
    if root != ROOT:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "one.cu")
            kernels = ("read_rows<Dtype::kFloat32, true>", "finish_rows<Dtype::kFloat32>")
            lines = "".join(f"template __global__ void {kernel}(Call, Workspace);\n" for kernel in kernels)
            head = f'#include "{root}/csrc/cuda/kernel.cuh"\n'
            source.write_text(f"{head}namespace fastsample::cuda {{ {lines} }}\n")
            return _nvcc(arch, source)
    source = root / "csrc/cuda/sample.cu"
    files = [source, *sorted((root / "csrc").rglob("*.*h"))]
    key = hashlib.sha256(b"".join(file.read_bytes() for file in files) + arch.encode()).hexdigest()[:16]
    kept = Path(tempfile.gettempdir()) / f"fastsample-{key}.ptx"
    if not kept.exists():
        part = kept.with_suffix(f".{os.getpid()}")
        part.write_text(_nvcc(arch, source))
        part.replace(kept)
    return kept.read_text()


def _nvcc(arch: str, source: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "sample.ptx")
        flags = ["-std=c++17", "-O3", "--fmad=false", "-lineinfo", f"-arch=compute_{arch}", "-ptx"]
        subprocess.run(["nvcc", *flags, str(source), "-o", str(out)], check=True)
        return out.read_text()


class Launched(NamedTuple):
    """Both kernels: their findings together, and each with its counters."""

    findings: list[str]
    read: Any
    finish: Any


def sample(case: Case, tokens, stats: Stats | None, arch="90", seed=1, splits=3, races=True, team=1, root: Path = ROOT):
    """`backends.cuda.sample` on the emulator; `team` blocks finish a row together."""
    module = loaded(compiled(arch, root))
    need = case.rows * -(-case.logits.shape[1] // CHUNK)
    space = [torch.full((need,), -1), torch.full((need,), torch.nan), torch.full((3 * need,), torch.nan)]
    call, memory = call_of(case)
    call.tokens, outputs = tokens.data_ptr(), [(tokens, 2), *((t, 2) for t in stats or ())]
    if stats is not None:
        call.stats = (C.c_void_p * 6)(*(t.data_ptr() for t in stats))
    work = Workspace(*(t.data_ptr() for t in space), splits, team)
    code = f"DtypeE{DTYPE_CODES[case.logits.dtype]}E"
    first = module.find(f"read_rowsILNS_5{code}Lb{int(stats is not None)}E")
    how = ((call, work), seed, races)
    read = _launch(module, first, case.rows * splits, [*memory, *((t, 2) for t in space)], *how)
    second = module.find(f"finish_rowsILNS_5{code}")
    finish = _launch(module, second, case.rows * team, [*memory, *((t, 0) for t in space), *outputs], *how, team)
    return Launched([*read.findings, *finish.findings], read, finish)


def edit(case: Case, rows: torch.Tensor, arch="90", seed=1) -> list[str]:
    """The launch that writes a case's edited rows into `rows`, [B, V] of a wider tensor; what the emulator found."""
    module = loaded(compiled(arch))
    call, memory = call_of(case)
    edits = Edits(allowed_stride=0 if case.allowed is None else case.allowed.stride(0))
    named = {} if case.edits is None else case.edits._asdict()
    for name, tensor in (named | ({} if case.allowed is None else {"allowed": case.allowed})).items():
        setattr(edits, name, tensor.data_ptr())
        memory.append((tensor, 1))
    edits.entries = 0 if case.edits is None else case.edits.ids.shape[1]
    copies = Copies(rows.data_ptr(), rows.stride(0), -(-case.logits.shape[1] // 2048))
    kernel = module.find(f"edit_rowsILNS_5DtypeE{DTYPE_CODES[case.logits.dtype]}E")
    blocks = case.rows * copies.splits
    return _launch(module, kernel, blocks, [*memory, (rows, 2)], (call, edits, copies), seed, True).findings


def call_of(case: Case) -> tuple[Call, list]:
    """A case as the kernels take it, and its memory: read but not written (1), the other way round (2), or both (0)."""
    memory = [(case.logits, 1)]
    call = Call(logits=case.logits.data_ptr(), dtype=DTYPE_CODES[case.logits.dtype], rows=case.rows)
    call.count, call.vocab = case.logits.shape
    call.row_stride = case.logits.stride(0)
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
    return call, memory


def _launch(module, kernel: str, blocks: int, memory: list, arguments: tuple, seed: int, races: bool, team: int = 1):
    E = emulator()
    places = [offset for offset, _ in module.kernels[kernel]["params"]]
    blob = bytearray(places[-1] + C.sizeof(arguments[-1]))
    for place, argument in zip(places, arguments):
        blob[place : place + C.sizeof(argument)] = bytes(argument)
    storages = [(t.untyped_storage(), flags) for t, flags in memory]
    allocations = (E.CAlloc * len(storages))(
        *(E.CAlloc(s.data_ptr(), s.nbytes(), flags, 0, f"arg{i}".encode()) for i, (s, flags) in enumerate(storages))
    )
    shape = [(C.c_int * 3)(n, 1, 1) for n in (blocks, 256, team)]
    launch = E.CLaunch(*shape, int(races), 20, 32, 24, 1, 0, seed, 10**10)
    code = E.L.ptx_launch(
        module.h, kernel.encode(), C.byref(launch), bytes(blob), len(blob), allocations, len(storages)
    )
    if code < 0:
        raise RuntimeError("the emulator: " + E.L.ptx_error().decode())
    return E.Result(code, E.L.ptx_report().decode(), 0.0)
