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
from fastsample.sampling.contract import Case, Stats

ROOT = Path(__file__).resolve().parents[3]
TOOLS = Path(os.environ.get("FASTSAMPLE_TOOLS", ROOT.parent / "shared" / "tools"))
EMULATOR = TOOLS / "ptxemu" / "ptxemu.py"
MISSING = f"the PTX emulator is missing: no {EMULATOR.name} in the tools folder beside the checkout"
ARCHITECTURES = (80, 90, 120)
POINTED = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int32: "i32", torch.int64: "i64"}
POINTERS = {dtype: f"*{name}" for dtype, name in POINTED.items()}


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


STATS = dict(logprob="*fp32", raw_logprob="*fp32", entropy="*fp32", self_certainty="*fp32", kept="*i64", status="*i32")
TYPES = {  # of the arguments that say nothing about theirs
    **{f"{name}_rows": f"*{POINTED[dtype]}" for name, dtype in backend.TYPES.items()},
    **dict(indices="*i64", memory="*i64", tokens="*i64"),
    **dict(allowed="*i32", ids="*i32", counts="*i32", biases="*fp32"),
    **dict(repetition="*fp32", frequency="*fp32", presence="*fp32"),
    **STATS,
}


def compile_for(target, fn, dtype: torch.dtype, threads: int, **constants: Any):
    """One of the Triton kernels ahead of time, and the names of the arguments that are passed, in order.

    As a call has it compiled: of no value and of no alignment is anything known.
    """
    import triton
    from triton.compiler import ASTSource

    signature, fixed, passed = {}, dict(constants), []
    for parameter in fn.params:
        name = parameter.name
        if name in fixed or (name in STATS and not constants["WITH_STATS"]):
            signature[name] = "constexpr"
            fixed.setdefault(name, None)
            continue
        signature[name] = POINTERS[dtype] if name in ("logits", "copies") else parameter.annotation_type or TYPES[name]
        passed.append(name)
    source = ASTSource(fn=fn, signature=signature, constexprs=fixed, attrs={})
    options = dict(num_warps=threads // target.warp_size, enable_fp_fusion=False)
    if target.backend == "cuda" and fn.__name__ == "finish_rows":
        options |= backend.second_options(target.arch // 10)
    return triton.compile(source, target=target, options=options), tuple(passed)


@functools.lru_cache(None)
def compile_kernel(fn, arch: int, dtype: torch.dtype, threads: int, **constants: Any) -> Compiled:
    """The same as PTX and cubin, for an NVIDIA architecture."""
    from triton.backends.compiler import GPUTarget

    k, passed = compile_for(GPUTarget("cuda", arch, 32), fn, dtype, threads, **constants)
    return Compiled(k.asm["ptx"], k.asm["cubin"], k.metadata.name, threads, k.metadata.shared, passed)


@functools.lru_cache(None)
def loaded(ptx: str):
    ptx = re.sub(r"(?:ld|st)matrix[^;]*;", _by_single_words, ptx)
    # A maximum of three that passes a NaN on (sm_100 and newer) is one of two and then one of two: PTX says so, while
    # the emulator takes it for the kind that drops NaNs.
    ptx = re.sub(r"(max\.NaN\.f32) *\t*([^,;]+), ([^,;]+), ([^,;]+), ([^,;]+);", r"\1 \2, \3, \4; \1 \2, \2, \5;", ptx)
    # A sum of a float32 and a 16-bit number (sm_120) is one after a conversion, which is exact.
    mixed = r"add\.rn\.f32\.(b?f16) *\t*([^,;]+), ([^,;]+), ([^,;]+);"
    ptx = re.sub(mixed, r"{ .reg .f32 %mixed; cvt.f32.\1 %mixed, \3; add.rn.f32 \2, %mixed, \4; }", ptx)
    # A comparison of two pairs is two comparisons; the emulator compares the first pair, and says the opposite of it.
    pairs = r"setp\.(\w+\.b?f16)x2 *\t*([^|]+)\|([^,;]+), ([^,;]+), ([^,;]+);"
    halves = r"mov.b32 {%a0, %a1}, \4; mov.b32 {%b0, %b1}, \5; setp.\1 \2, %a0, %b0; setp.\1 \3, %a1, %b1;"
    ptx = re.sub(pairs, rf"{{ .reg .b16 %a<2>, %b<2>; {halves} }}", ptx)
    ptx = re.sub(r"griddepcontrol\.\w+;", "", ptx)  # of dependent launches: one launch at a time has none
    return emulator().Module(ptx)


MATRIX = re.compile(r"(ld|st)matrix\.sync\.aligned\.m8n8\.x\d(\.trans)?\.shared\.b16 ([^;]*);")


def _by_single_words(found: re.Match) -> str:
    """The emulator has no ldmatrix and no stmatrix, which move matrices of eight rows of eight 16-bit numbers.

    Lanes 8 m to 8 m + 7 hold the addresses of matrix m's rows. Lane t has word t % 4 of row t / 4; of a transposed
    matrix, number t / 4 of row 2 (t % 4) and that of the next row.
    """
    known = MATRIX.fullmatch(found[0])
    assert known is not None, found[0]
    name, is_transposed, operands = known.groups()
    address, offset = re.search(r"\[([^+\]]*)(\+\d+)?\]", operands).groups(default="")
    row, column, shifts, width = ("%mx1", "%mx0", (1, 1), "b16") if is_transposed else ("%mx0", "%mx1", (0, 2), "b32")
    lines = ["{ .reg .b32 %mx<4>; .reg .b16 %my<2>;", f"mov.b32 %mx3, {address};", "mov.u32 %mx0, %tid.x;"]
    lines += ["and.b32 %mx1, %mx0, 3;", "shr.u32 %mx0, %mx0, 2;", "and.b32 %mx0, %mx0, 7;"]  # t % 4, t / 4
    lines += [f"shl.b32 {row}, {row}, {shifts[0]};", f"shl.b32 {column}, {column}, {shifts[1]};"]
    for register in map(str.strip, re.search(r"\{(.*)\}", operands)[1].split(",")):
        parts, at = ["%my0", "%my1"] if is_transposed else [register], f"[%mx2{offset}]"
        lines += [f"mov.b32 {{%my0, %my1}}, {register};"] if is_transposed and name == "st" else []
        for part in parts:
            lines += [f"shfl.sync.idx.b32 %mx2, %mx3, {row}, 31, -1;", f"add.s32 %mx2, %mx2, {column};"]
            lines += [f"ld.shared.{width} {part}, {at};" if name == "ld" else f"st.shared.{width} {at}, {part};"]
            lines += [f"add.s32 {row}, {row}, 1;"]
        lines += [f"mov.b32 {register}, {{%my0, %my1}};"] if is_transposed and name == "ld" else []
        lines += [f"add.s32 {row}, {row}, {8 - len(parts)};"]
    return "\n".join([*lines, "}"])


def first_kernel(case: Case, stats: Stats | None, arch: int, source: ModuleType | None = None) -> Compiled:
    """`chunk_statistics` as `backend.sample` would have it compiled for this call; `source` may be a changed copy."""
    from fastsample.sampling.backends.triton import kernels as triton_kernels

    fn = (source or triton_kernels).chunk_statistics
    constants = backend.first_constants(stats is not None)
    return compile_kernel(fn, arch, case.logits.dtype, backend.THREADS, **constants)


def second_kernel(case: Case, stats: Stats | None, arch: int, source: ModuleType | None = None) -> Compiled:
    """The same of `finish_rows`."""
    from fastsample.sampling.backends.triton import kernels as triton_kernels

    fn, dtype = (source or triton_kernels).finish_rows, case.logits.dtype
    constants = backend.second_constants(stats is not None, backend.chunks_of(case.logits.shape[1]), dtype)
    return compile_kernel(fn, arch, dtype, backend.FINISHERS, **constants)


def arguments_of(case: Case, tokens: torch.Tensor | None, stats: Stats | None) -> dict[str, Any]:
    """Of both kernels, with a workspace, by name."""
    from fastsample.sampling.backends.triton import kernels as triton_kernels

    E = emulator()
    chunks = backend.chunks_of(case.logits.shape[1])
    words = case.rows * backend.words(chunks, stats is not None)
    memory = torch.full((words,), -1)  # NaN, where it is taken for floats
    names = [parameter.name for parameter in triton_kernels.chunk_statistics.params]
    values = dict(zip(names, backend.arguments(case, memory, stats is not None)))
    values["logits"] = E.Const(case.logits)
    return (
        values | dict(tokens=None if tokens is None else E.Undef(tokens)) | ({} if stats is None else stats._asdict())
    )


def left_by_first(case: Case, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the first kernel leaves of one row: its chunks' maxima and sums of weights (`rows.space_of`)."""
    chunks = backend.chunks_of(case.logits.shape[1])
    words = memory[chunks + 3 * backend.CAPACITY + backend.BINS + backend.PLACES :].view(torch.float32)
    return words[3 * backend.CAPACITY + 3 * chunks :][:chunks], memory[:chunks]


def launch(kernel: Compiled, grid: tuple[int, ...], values: dict[str, Any], seed: int, races: bool):
    module = loaded(kernel.ptx)
    return module.launch(
        module.find(kernel.name), grid=grid, block=(kernel.threads,), args=[values[n] for n in kernel.parameters],
        dyn=kernel.shared, races=races, seed=seed,
    )  # fmt: skip


def launch_first(case: Case, stats, values, arch: int, seed: int, races: bool, splits: int, source=None):
    """The first kernel, with at most `splits` programs to a row, on a workspace that nobody has written."""
    kernel = first_kernel(case, stats, arch, source)
    tile = backend.THREADS // backend.share(stats is not None)
    tiles = backend.programs(1, backend.chunks_of(case.logits.shape[1]), tile, 10**6)
    blank = {"memory": emulator().Undef(values["memory"])}
    return launch(kernel, (case.rows, min(splits, tiles)), values | blank, seed, races)


def is_explained(finding: str) -> bool:
    """Triton lets several warps write the same word of a reduction to shared memory, by the same instruction."""
    lines = [part.split(":")[0] for part in finding.split("PTX line ")[1:]]
    return finding.startswith("RACE-WW: shared") and len(lines) == 2 and lines[0] == lines[1]


def unexplained(*launches) -> list[str]:
    """The findings of launches, without those that are Triton's way."""
    return [f for launched in launches for f in launched.findings if not is_explained(f)]


def launches(case: Case, tokens, stats: Stats | None, arch=90, seed=1, races=True, splits=2, source=None) -> tuple:
    """`backend.sample` on the emulator: both launches."""
    values = arguments_of(case, tokens, stats)
    first = launch_first(case, stats, values, arch, seed, races, splits, source)
    return first, launch(second_kernel(case, stats, arch, source), (case.rows,), values, seed, races)


def sample(case: Case, tokens, stats: Stats | None, arch=90, **how) -> list[str]:
    """Every unexplained finding of both launches."""
    return unexplained(*launches(case, tokens, stats, arch, **how))


def edit(case: Case, rows: torch.Tensor, arch=90, seed=1) -> list[str]:
    """The launches that write a case's edited rows into `rows`, on the emulator: what it found."""
    from fastsample.sampling.backends.triton import edits

    of_copies, of_entries = edits.arguments(case, rows)
    todo = [(edits.copy_rows, of_copies, dict(BLOCK=edits.BLOCK), (case.rows, -(-rows.shape[1] // edits.BLOCK)))]
    if of_entries:
        todo.append((edits.edit_entries, of_entries, dict(ENTRIES=edits.ENTRIES), (case.rows,)))
    found = []
    for fn, arguments, constants, grid in todo:
        kernel = compile_kernel(fn, arch, case.logits.dtype, edits.THREADS, **constants)
        values = dict(zip([parameter.name for parameter in fn.params], arguments))
        found += launch(kernel, grid, values | dict(logits=emulator().Const(case.logits)), seed, True).findings
    return found
