"""What the GPU kernels cost, from the compiled code alone: no GPU is needed, and no time is measured.

    python bench/kernel_cost.py            print the table
    python bench/kernel_cost.py --write    and store it in bench/kernel_cost.json and bench/kernel_cost.md
    python bench/kernel_cost.py --check    fail on a spill, a load narrower than 16 bytes, 5 % more in the largest pipe
    ... --backend cuda --arch 90           of these alone (each may be repeated)

Instructions are counted in SASS, in the loop that streams the row, weighted by how many issue slots of a
multiprocessor's 128 lanes each takes: 128 / the results per clock that the CUDA programming guide's table of arithmetic
throughput gives for it (sass.py). Pipes work side by side, so that what counts is the largest of them, or the issue of
all instructions where that is more; `slots` is the sum of all.
Roofline of a row of 151,936 logits: its bytes / bandwidth, and the slots of its largest pipe / (multiprocessors x 128 x
clock), both of the datasheet. The larger is a bound, not a measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from sass import instructions, kind, largest_pipe, narrowest_load, resources, slots, spills, streaming_loops

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "bench/kernel_cost.json"
VOCAB = 151_936
CUDA_ARCHITECTURES = ("80", "86", "89", "90", "100", "120")
CUDA_ELEMENTS = 32  # of a lane, in one turn of the streaming loop
TRITON_ARCHITECTURES = ("80", "86", "90", "100a", "120")
# Architecture, bytes/s, multiprocessors, clock: of the datasheets; the clock as their float32 rate has it.
DEVICES = {
    "A100 80GB": ("80", 2.04e12, 108, 1.41e9),
    "H100 SXM": ("90", 3.35e12, 132, 1.98e9),
    "B200": ("100", 8.0e12, 148, 1.98e9),
    "RTX 4090": ("89", 1.008e12, 128, 2.52e9),
}
KINDS = ("load", "float32", "float64", "convert", "shuffle", "store", "other")  # other: int32 and control
WARPS_OF_SM = {"80": 64, "86": 48, "89": 48, "90": 64, "100": 64, "100a": 64, "120": 48}
SHARED_OF_SM = {"80": 164, "86": 100, "89": 100, "90": 228, "100": 228, "100a": 228, "120": 100}  # kB
# Its ptxas gives a kernel that needs more of them 168 registers and spills the rest, and more where it may take all.
SPILLING = "sm_100a"


def line(name: str, arch: str, code, loop, elements: int, registers: int, shared: int, threads: int, size: int) -> dict:
    blocks = min(65536 // (max(registers, 1) * threads), SHARED_OF_SM[arch] * 1024 // max(shared + 1024, 1), 32)
    warps = min(blocks * threads // 32, WARPS_OF_SM[arch])
    pipe, busy = largest_pipe(loop, arch)
    chunks = -(-VOCAB // 256)
    return dict(
        kernel=name,
        arch=f"sm_{arch}",
        registers=registers,
        spills=spills(code),
        shared=shared,
        occupancy=round(warps / WARPS_OF_SM[arch], 2),
        load_bytes=narrowest_load(loop, elements * size),
        instructions=round(len(loop) / elements, 2),
        pipe=pipe,
        largest=round(busy / elements, 2),
        slots=round(sum(slots(i.opcode, arch) for i in loop) / elements, 2),
        kinds={k: round(n / elements, 2) for k, n in Counter(kind(i.opcode) for i in loop).items()},
        read=VOCAB * size,
        written=12 * chunks,
    )


def cuda_lines(folder: Path, arch: str) -> list[dict]:
    lines = []
    cubin = folder / f"{arch}.cubin"
    flags = ["-std=c++17", "-O3", "--fmad=false", f"-arch=sm_{arch}", "-cubin"]
    subprocess.run(["nvcc", *flags, ROOT / "csrc/cuda/sample.cu", "-o", cubin], check=True)
    usage = resources(cubin)
    for name, code in instructions(cubin).items():
        match = re.search(r"(read|finish)_rowsI.*DtypeE(\d)E(?:Lb(\d))?", name)
        if not match:
            continue
        dtype, size = (("float32", 4), ("bfloat16", 2), ("float16", 2))[int(match[2])]
        if match[1] == "finish":
            lines.append(without_loop(line(f"cuda 2 {dtype}", arch, code, [], 1, *usage[name], 256, size)))
            continue
        title = f"cuda 1 {dtype}{' + statistics' if match[3] == '1' else ''}"
        loops = streaming_loops(code)
        # maxima alone, sums beside them, and the same at temperatures above 1e36
        assert len(loops) == 3, f"{title}: {len(loops)} streaming loops"
        for what, loop in zip((", maxima", "", ", hot"), loops):
            lines.append(line(title + what, arch, code, loop, CUDA_ELEMENTS, *usage[name], 256, size))
    return sorted(lines, key=lambda one: one["kernel"])


def without_loop(one: dict) -> dict:
    """The line of a kernel that streams nothing."""
    return {**one, "instructions": None, "pipe": None, "largest": None, "slots": None, "kinds": {}, "load_bytes": None}


def triton_lines(folder: Path, arch: str) -> list[dict]:
    os.environ.pop("TRITON_INTERPRET", None)
    sys.path.insert(0, str(ROOT / "tests"))
    import torch
    from sampling.gpu import ptx

    from fastsample.sampling.backends.triton import kernels as kernels
    from fastsample.sampling.backends.triton import launch as backend

    lines, version = [], int(arch.rstrip("a"))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for stats in (False, True):
            one, title = backend.first_constants(stats), f"{str(dtype)[6:]}{' + statistics' if stats else ''}"
            k = ptx.compile_kernel(kernels.chunk_statistics, version, dtype, backend.THREADS, **one)
            lines += triton_line(folder, k, f"triton 1 {title}", arch, dtype.itemsize, 256 // backend.share(stats))
            # The second one takes long to compile.
            if dtype == torch.bfloat16 or (stats and (dtype == torch.float16 or arch in ("90", "100a"))):
                two = backend.second_constants(stats, -(-VOCAB // 256), dtype)
                k = ptx.compile_kernel(kernels.finish_rows, version, dtype, backend.FINISHERS, **two)
                lines += triton_line(folder, k, f"triton 2 {title}", arch, dtype.itemsize, 0)
    return lines


def triton_line(folder: Path, k, title: str, arch: str, size: int, elements: int) -> list[dict]:
    """Of one kernel; `elements` of a thread in one turn of a streaming loop, 0 for the kernel that has none."""
    cubin = folder / f"triton_{arch}.cubin"
    cubin.write_bytes(k.cubin)
    [(name, (registers, shared))] = resources(cubin).items()
    code, shared = instructions(cubin)[name], max(shared, k.shared)
    if not elements:
        return [without_loop(line(title, arch, code, [], 1, registers, shared, k.threads, size))]
    loops = streaming_loops(code)
    assert len(loops) == 2, f"{title}: {len(loops)} streaming loops"  # maxima alone, and sums beside them
    return [
        line(title + what, arch, code, loop, elements, registers, shared, k.threads, size)
        for what, loop in zip((", maxima", ""), loops)
    ]


def compilers() -> str:
    """Which compilers made the code: another release schedules it differently."""
    import triton

    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout if shutil.which("nvcc") else ""
    return f"nvcc {''.join(re.findall(r'V([0-9.]+)', said)) or '(none)'}, Triton {triton.__version__}"


def markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(r) + " |" for r in (head, ["---"] * len(head), *rows)]


def table(lines: list[dict]) -> str:
    head = [
        "kernel",
        "arch",
        "registers",
        "spills",
        "shared",
        "occupancy",
        "load_bytes",
        "instructions",
        "pipe",
        "largest",
    ]
    rows = [
        [str(one[h]) if one[h] is not None else "" for h in head] + [str(one["kinds"].get(k, "")) for k in KINDS]
        for one in lines
    ]
    costs = {(one["kernel"], one["arch"]): one["largest"] for one in lines}
    bounds = [bound(device, costs) for device in DEVICES if ("cuda 1 float32", f"sm_{DEVICES[device][0]}") in costs]
    return "\n".join(
        [
            *markdown([*head, *KINDS], rows),
            "",
            f"Compiled by {compilers()}. Instructions, their kinds, the largest pipe's slots: for one logit.",
            f"Bytes read of a row of {VOCAB:,} tokens: {VOCAB * 4:,} (float32), {VOCAB * 2:,} (16 bit); written: 12",
            "per 256 tokens, 24 with statistics.",
            "",
            "Roofline of the CUDA kernel's one read, microseconds a row of a full batch: bytes / bandwidth, and",
            "slots of its largest pipe x logits / (multiprocessors x 128 x clock), from datasheets. The larger of the",
            "two is a bound, not a measurement.",
            "",
            *markdown(["device", "TB/s", "SMs x GHz", "float32: bytes", "slots", "bfloat16: bytes", "slots"], bounds),
        ]
    )


def bound(device: str, costs: dict[tuple[str, str], float]) -> list[str]:
    """A device's line: what its memory and what its instructions allow."""
    arch, bandwidth, processors, clock = DEVICES[device]
    cells = [device, f"{bandwidth / 1e12:.2f}", f"{processors} x {clock / 1e9:.2f}"]
    for dtype, size in (("float32", 4), ("bfloat16", 2)):
        slots_a_second = processors * 128 * clock
        cells.append(f"{VOCAB * size / bandwidth * 1e6:.3f}")
        cells.append(f"{VOCAB * costs[f'cuda 1 {dtype}', f'sm_{arch}'] / slots_a_second * 1e6:.3f}")
    return cells


def complaints(lines: list[dict], stored: list[dict]) -> list[str]:
    """Spills, narrow loads, loops whose largest pipe grew by more than 5 %, kernels that the table does not have."""
    before = {(one["kernel"], one["arch"]): one for one in stored}
    found = []
    for one in lines:
        name, old = f"{one['kernel']} on {one['arch']}", before.get((one["kernel"], one["arch"]))
        if one["spills"] > (old["spills"] if old and one["arch"] == SPILLING else 0):
            found.append(f"{name}: {one['spills']} spill instructions")
        if one["load_bytes"] is not None and one["load_bytes"] < 16:
            found.append(f"{name}: loads of {one['load_bytes']} bytes")
        if not old:
            found.append(f"{name}: not in {STORED.name}; --write puts it there")
        elif one["largest"] and one["largest"] > 1.05 * old["largest"]:
            found.append(f"{name}: {one['largest']} slots of {one['pipe']} per element, {old['largest']} before")
    return found


def compiled(backends: list[str], archs: list[str]) -> list[dict]:
    """The lines of these backends and architectures; two compilations run at a time."""
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2) as pool:
        todo = [(triton_lines, a) for a in TRITON_ARCHITECTURES] if "triton" in backends else []
        todo += [(cuda_lines, a) for a in CUDA_ARCHITECTURES] if "cuda" in backends else []
        parts = [pool.submit(lines_of, Path(folder), arch) for lines_of, arch in todo if arch in archs]
        lines = [one for part in parts for one in part.result()]
    return sorted(lines, key=lambda one: one["kernel"].startswith("triton"))  # stable: CUDA's lines first


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--backend", choices=("cuda", "triton"), action="append")
    parser.add_argument("--arch", choices=tuple(WARPS_OF_SM), action="append")
    arguments = parser.parse_args()
    backends = arguments.backend or ["cuda", "triton"]
    if "cuda" in backends and not shutil.which("nvcc"):
        backends.remove("cuda")
        print("nvcc is not on the PATH: the CUDA kernel was not looked at", file=sys.stderr)
    lines = compiled(backends, arguments.arch or list(WARPS_OF_SM))
    print(table(lines))
    stored = json.loads(STORED.read_text())
    if arguments.write:  # lines that were not asked for stay as they are
        fresh = {(one["kernel"], one["arch"]): one for one in lines}
        gone = tuple(backends) if not arguments.arch else ()  # of which there are no others
        known = [
            fresh.pop((one["kernel"], one["arch"]), one)
            for one in stored
            if (one["kernel"], one["arch"]) in fresh or not one["kernel"].startswith(gone)
        ]
        known = sorted([*known, *fresh.values()], key=lambda one: one["kernel"].startswith("triton"))
        kept = known if arguments.backend or arguments.arch or "cuda" not in backends else lines
        STORED.write_text(json.dumps(kept, indent=1) + "\n")
        STORED.with_suffix(".md").write_text("# What the kernels cost\n\n" + table(kept) + "\n")
    found = complaints(lines, stored) if arguments.check else []
    print("\n".join(found), file=sys.stderr)
    return len(found) > 0


if __name__ == "__main__":
    sys.exit(main())
