"""Compiled PTX run on the CPU: Triton's kernels ahead of time, nvcc's from the .cu, both on the PTX emulator.

The emulator is a tool beside the checkout (`../shared/tools/ptxemu`, or the folder that FASTSAMPLE_TOOLS names).
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

from fastsample.sampling.backends.triton import launch as backend
from fastsample.sampling.contract import CHUNK, Case, Stats

ROOT = Path(__file__).resolve().parents[3]
TOOLS = Path(os.environ.get("FASTSAMPLE_TOOLS", ROOT.parent / "shared" / "tools"))
EMULATOR = TOOLS / "ptxemu" / "ptxemu.py"
MISSING = f"the PTX emulator is missing: no {EMULATOR.name} in the tools folder beside the checkout"
ARCHITECTURES = (80, 90, 120)
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


@functools.lru_cache(None)
def emulator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ptxemu", EMULATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ptxemu"] = module
    spec.loader.exec_module(module)
    return module


class Compiled(NamedTuple):
    ptx: str
    cubin: bytes
    name: str
    threads: int
    shared: int
    parameters: tuple[str, ...]  # the names that are passed, in order


# Argument types of both kernels. `?` marks a pointer that may be absent.
COMMON = dict(logits="logits", stride="i64", count="i32", vocab="i32", chunks="i32", indices="?*i64")
COLUMNS = dict(temperature="fp32", top_k="i32", top_p="fp32", min_p="fp32", seed="i64", position="i64")
STATS = dict(logprob="*fp32", raw_logprob="*fp32", entropy="*fp32", self_certainty="*fp32", kept="*i64", status="*i32")
TYPES = {
    **COMMON,
    **COLUMNS,
    **{f"{n}_rows": f"?*{t}" for n, t in COLUMNS.items()},
    **{n: f"?{t}" for n, t in STATS.items()},
    **dict(stream_rows="?*i64", tops="*fp32", sums="*i64", listing="*i32", scratch="*fp32", moments="*fp32"),
    **dict(scratch_stride="i32", tokens="*i64"),
}


def compile_for(target, fn, dtype: torch.dtype, absent: frozenset[str], threads: int, **constants: Any):
    """One of the Triton kernels ahead of time, and the names of the arguments that are passed, in order.

    `absent` names the optional pointers that are None.
    """
    import triton
    from triton.compiler import ASTSource

    signature, fixed, attributes, passed = {}, dict(constants), {}, []
    for i, name in enumerate(fn.arg_names):
        if name in fixed or name in absent:
            signature[name] = "constexpr"
            fixed.setdefault(name, None)
            continue
        kind = TYPES[name].lstrip("?")
        signature[name] = POINTERS[dtype] if kind == "logits" else kind
        passed.append(name)
        if signature[name].startswith("*") or name == "stride":
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=fn, signature=signature, constexprs=fixed, attrs=attributes)
    options = dict(num_warps=threads // target.warp_size, enable_fp_fusion=False)
    return triton.compile(source, target=target, options=options), tuple(passed)


@functools.lru_cache(None)
def compile_kernel(
    fn, arch: int, dtype: torch.dtype, absent: frozenset[str], threads: int, **constants: Any
) -> Compiled:
    """The same as PTX and cubin, for an NVIDIA architecture."""
    from triton.backends.compiler import GPUTarget

    k, passed = compile_for(GPUTarget("cuda", arch, 32), fn, dtype, absent, threads, **constants)
    return Compiled(k.asm["ptx"], k.asm["cubin"], k.metadata.name, threads, k.metadata.shared, passed)


@functools.lru_cache(None)
def loaded(ptx: str):
    ptx = re.sub(r"ldmatrix[^;]*;", _without_ldmatrix, ptx)
    # A maximum of three that passes a NaN on (sm_100 and newer) is one of two and then one of two: PTX says so, while
    # the emulator takes it for the kind that drops NaNs.
    ptx = re.sub(r"(max\.NaN\.f32) *\t*([^,;]+), ([^,;]+), ([^,;]+), ([^,;]+);", r"\1 \2, \3, \4; \1 \2, \2, \5;", ptx)
    ptx = re.sub(r"griddepcontrol\.\w+;", "", ptx)  # of dependent launches: one launch at a time has none
    return emulator().Module(ptx)


def _without_ldmatrix(found: re.Match) -> str:
    """The emulator has no ldmatrix: lane t gets word t % 4 of row t / 4, whose address lane t / 4 + 8 m holds."""
    inside = re.fullmatch(r"ldmatrix\.sync\.aligned\.m8n8\.x\d\.shared\.b16 \{(.*)\}, \[([^+\]]*)(\+\d+)?\];", found[0])
    assert inside is not None, found[0]
    lines = ["{ .reg .b32 %mx<4>;", "mov.u32 %mx0, %tid.x;", "and.b32 %mx1, %mx0, 3;", "shl.b32 %mx1, %mx1, 2;"]
    lines += ["shr.u32 %mx0, %mx0, 2;", "and.b32 %mx0, %mx0, 7;", f"mov.b32 %mx3, {inside[2]};"]
    for register in inside[1].split(","):
        lines += ["shfl.sync.idx.b32 %mx2, %mx3, %mx0, 31, -1;", "add.s32 %mx2, %mx2, %mx1;"]
        lines += [f"ld.shared.b32 {register.strip()}, [%mx2{inside[3] or ''}];", "add.s32 %mx0, %mx0, 8;"]
    return "\n".join([*lines, "}"])


def absent_of(case: Case, stats: Stats | None) -> frozenset[str]:
    names = {f"{n}_rows" for n in COLUMNS if not isinstance(getattr(case, n), torch.Tensor)}
    names |= {"stream_rows"} if case.stream is None else set()
    names |= {"indices"} if case.indices is None else set()
    return frozenset(names | (set(STATS) if stats is None else set()))


def first_kernel(case: Case, stats: Stats | None, arch: int, source: ModuleType | None = None) -> Compiled:
    """`chunk_statistics` as `backend.sample` would have it compiled for this call; `source` may be a changed copy."""
    from fastsample.sampling.backends.triton import kernels as triton_kernels

    fn = (source or triton_kernels).chunk_statistics
    constants = backend.first_constants(stats is not None)
    return compile_kernel(fn, arch, case.logits.dtype, absent_of(case, stats), backend.THREADS, **constants)


def second_kernel(case: Case, stats: Stats | None, arch: int, source: ModuleType | None = None) -> Compiled:
    """The same of `finish_rows`."""
    from fastsample.sampling.backends.triton import kernels as triton_kernels

    fn, dtype = (source or triton_kernels).finish_rows, case.logits.dtype
    constants = backend.second_constants(stats is not None, -(-case.logits.shape[1] // CHUNK), dtype)
    return compile_kernel(fn, arch, dtype, absent_of(case, stats), backend.FINISHERS, **constants)


WORKSPACE = ("tops", "sums", "scratch", "moments")  # what the first kernel leaves to the second


def arguments_of(case: Case, tokens: torch.Tensor | None, stats: Stats | None) -> dict[str, Any]:
    """Of both kernels, with a workspace, by name."""
    E = emulator()
    chunks = -(-case.logits.shape[1] // CHUNK)
    words = backend.scratch_words(chunks)
    scratch = torch.empty(case.rows * words, dtype=torch.float32)
    values: dict[str, Any] = dict(
        logits=E.Const(case.logits),
        stride=case.logits.stride(0),
        count=case.logits.shape[0],
        vocab=case.logits.shape[1],
        chunks=chunks,
        indices=case.indices,
        stream_rows=case.stream,
        tops=torch.empty(case.rows * chunks, dtype=torch.float32),
        sums=torch.empty(case.rows * chunks, dtype=torch.int64),
        scratch=scratch,
        moments=scratch,
        scratch_stride=words,
        listing=E.Undef(torch.empty(case.rows * chunks, dtype=torch.int32)),
        tokens=None if tokens is None else E.Undef(tokens),
        **({} if stats is None else stats._asdict()),
    )
    for n in COLUMNS:
        value = getattr(case, n)
        is_column = isinstance(value, torch.Tensor)
        values[n], values[f"{n}_rows"] = (0, value) if is_column else (value, None)
        if COLUMNS[n] == "fp32":
            values[n] = float(values[n])
    return values


def launch(kernel: Compiled, grid: tuple[int, ...], values: dict[str, Any], seed: int, races: bool):
    module = loaded(kernel.ptx)
    return module.launch(
        module.find(kernel.name), grid=grid, block=(kernel.threads,), args=[values[n] for n in kernel.parameters],
        dyn=kernel.shared, races=races, seed=seed,
    )  # fmt: skip


def launch_first(case: Case, stats, values, arch: int, seed: int, races: bool, splits: int, source=None):
    """The first kernel, with at most `splits` programs to a row, on a workspace that nobody has written."""
    kernel = first_kernel(case, stats, arch, source)
    tiles = backend.programs(1, values["chunks"], backend.THREADS // backend.share(stats is not None), 10**6)
    blank = {name: emulator().Undef(values[name]) for name in WORKSPACE}
    return launch(kernel, (case.rows, min(splits, tiles)), values | blank, seed, races)


def is_explained(finding: str) -> bool:
    """Triton lets several warps write the same word of a reduction to shared memory, by the same instruction."""
    lines = [part.split(":")[0] for part in finding.split("PTX line ")[1:]]
    return finding.startswith("RACE-WW: shared") and len(lines) == 2 and lines[0] == lines[1]


def unexplained(*launches) -> list[str]:
    """The findings of launches, without those that are Triton's way."""
    return [f for launched in launches for f in launched.findings if not is_explained(f)]


def sample(case: Case, tokens, stats: Stats | None, arch=90, seed=1, races=True, splits=2, source=None) -> list[str]:
    """`backend.sample` on the emulator: every unexplained finding of both launches."""
    values = arguments_of(case, tokens, stats)
    first = launch_first(case, stats, values, arch, seed, races, splits, source)
    second = launch(second_kernel(case, stats, arch, source), (case.rows,), values, seed, races)
    return unexplained(first, second)
