"""What the GPU kernels cost, from the compiled code alone: no GPU is needed, and no time is measured.

    python bench/kernel_cost.py            print the table
    python bench/kernel_cost.py --write    and store it in bench/kernel_cost.json and bench/kernel_cost.md
    python bench/kernel_cost.py --check    fail on a spill, a load narrower than 16 bytes, 5 % more instructions
    ... --backend cuda --arch 90a          of these alone (each may be repeated)

Instructions are counted in SASS, in the loop that streams the row, weighted by how
many issue slots of a multiprocessor's 128 lanes each takes: 128 / the results per clock of the table of arithmetic
throughput in the CUDA programming guide (LANES). Where that table is not clear about an instruction it counts 2 slots.
Roofline: bytes of a row of 151,936 logits / bandwidth of the datasheet. It is a bound, not a measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "bench/kernel_cost.json"
VOCAB = 151_936
CUDA_ARCHITECTURES = ("80", "86", "89", "90a", "100a", "120")
CUDA_ELEMENTS = 32  # of a lane, in one turn of the streaming loop
DEVICES = {"A100 80GB": 2.04e12, "H100 SXM": 3.35e12, "B200": 8.0e12, "RTX 4090": 1.008e12}  # bytes/s, datasheets
WARPS_OF_SM = {"80": 64, "86": 48, "89": 48, "90": 64, "90a": 64, "100a": 64, "120": 48}
SHARED_OF_SM = {"80": 164, "86": 100, "89": 100, "90": 228, "90a": 228, "100a": 228, "120": 100}  # kB
# Results per clock and multiprocessor; shuffles have 32 and the special functions 16 everywhere.
LANES = {
    "float32": {"80": 64},  # 128 on the others
    "float64": {"80": 32, "90": 64, "100": 64},  # 2 on the consumer parts
    "to or from 64 bits": {"80": 16, "90": 16, "100": 16},
}
FREE = ("MOV", "CS2R", "S2R", "LDC", "R2UR", "S2UR", "U", "BAR", "BRA", "EXIT", "BSSY", "BSYNC")  # one slot: not in it


def slots(opcode: str, arch: str) -> int:
    """Issue slots of 128 lanes that one instruction takes; 2 (64 lanes: integers, comparisons, conversions) if not
    named here. Conversions between 32-bit types may be slower than that on sm_80 to sm_89."""
    chip = arch.rstrip("a")
    if opcode.startswith(FREE):
        return 1
    if opcode.startswith("SHFL"):
        return 4
    if opcode.startswith("MUFU"):
        return 8
    if re.match(r"(F2F|F2I|I2F|FRND).*(64|F64)", opcode):
        return 128 // LANES["to or from 64 bits"].get(chip, 2)
    if re.match(r"D(ADD|MUL|FMA|SETP|MNMX)", opcode):
        return 128 // LANES["float64"].get(chip, 2)
    return 128 // LANES["float32"].get(chip, 128) if opcode.startswith(("FADD", "FMUL", "FFMA")) else 2


def kind(opcode: str) -> str:
    for name, start in (("load", "LDG"), ("store", "STG"), ("shuffle", "SHFL"), ("convert", ("F2I", "I2F", "F2F"))):
        if opcode.startswith(start):
            return name
    if opcode.startswith(("FADD", "FMUL", "FFMA", "FMNMX", "FSETP", "FSEL")):
        return "float32"
    return "float64" if re.match(r"D(ADD|MUL|FMA|SETP)", opcode) else "other"


def tool(name: str) -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends/nvidia/bin" / name)


def resources(cubin: Path) -> dict[str, tuple[int, int]]:
    """Registers and shared bytes by kernel."""
    text = subprocess.run(
        [tool("cuobjdump"), "--dump-resource-usage", cubin], capture_output=True, text=True, check=True
    )
    found = re.findall(r"Function ([^:]+):\s+REG:(\d+).*?SHARED:(\d+)", text.stdout)
    return {name: (int(registers), int(shared)) for name, registers, shared in found}


def instructions(cubin: Path) -> dict[str, list[tuple[int, str, str]]]:
    """(address, opcode, the rest) by kernel."""
    text = subprocess.run([tool("nvdisasm"), "-c", cubin], capture_output=True, text=True, check=True).stdout
    found: dict[str, list[tuple[int, str, str]]] = {}
    labels: dict[str, int] = {}
    current: list = []
    waiting: list[str] = []
    for line in text.splitlines():
        if match := re.match(r"\.text\.([^:]+):", line):
            current = found.setdefault(match[1], [])
        elif match := re.match(r"(\.L_x_\d+):", line):
            waiting.append(match[1])
        elif match := re.search(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)(.*?);", line):
            labels.update(dict.fromkeys(waiting, int(match[1], 16)))
            waiting = []
            current.append((int(match[1], 16), match[2], match[3]))
    for code in found.values():
        code[:] = [(a, o, re.sub(r"\.L_x_\d+", lambda m: hex(labels.get(m[0], 0)), r)) for a, o, r in code]
    return found


def streaming_loop(code: list[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
    """The smallest loop around the first 16-byte load, without the blocks that load element by element (the tail)."""
    wide = [a for a, o, _ in code if load_width(o) == 16]
    assert wide, "no 16-byte load"
    jumps = [(a, int(t, 16)) for a, o, r in code if o.startswith("BRA") for t in re.findall(r"0x([0-9a-f]+)", r)]
    around = [(a - target, target, a) for a, target in jumps if target <= wide[0] <= a]
    assert around, "no loop around the 16-byte loads"
    _, first, last = min(around)
    loop = [c for c in code if first <= c[0] <= last]
    return [item for block in blocks_of(loop) if not is_tail(block) for item in block]


def is_tail(block: list[tuple[int, str, str]]) -> bool:
    widths = [load_width(o) for _, o, _ in block]
    return sum(0 < w < 16 for w in widths) >= 2 or 2 in widths


def load_width(opcode: str) -> int:
    """Bytes that a load from global memory brings to a lane; 0 for other instructions."""
    if not opcode.startswith("LDG"):
        return 0
    return next((n for mark, n in ((".128", 16), (".64", 8), ("16", 2), ("8", 1)) if mark in opcode), 4)


def narrowest_load(loop: list[tuple[int, str, str]], need: int) -> int:
    """Of the loads that bring a lane its `need` bytes of the row: widest first, what is left over are parameters."""
    for width in sorted((load_width(o) for _, o, _ in loop), reverse=True):
        need -= width
        if need <= 0 or not width:
            return width
    return 0


def line(name: str, arch: str, code, loop, elements: int, registers: int, shared: int, threads: int, size: int) -> dict:
    blocks = min(65536 // (max(registers, 1) * threads), SHARED_OF_SM[arch] * 1024 // max(shared + 1024, 1), 32)
    warps = min(blocks * threads // 32, WARPS_OF_SM[arch])
    kinds: dict[str, float] = {}
    for _, opcode, _ in loop:
        kinds[kind(opcode)] = round(kinds.get(kind(opcode), 0) + 1 / elements, 2)
    chunks = -(-VOCAB // 256)
    return dict(
        kernel=name,
        arch=f"sm_{arch}",
        registers=registers,
        spills=sum(o.startswith(("STL", "LDL")) for _, o, _ in code),
        shared=shared,
        occupancy=round(warps / WARPS_OF_SM[arch], 2),
        load_bytes=narrowest_load(loop, elements * size),
        instructions=round(len(loop) / elements, 2),
        slots=round(sum(slots(o, arch) for _, o, _ in loop) / elements, 2),
        kinds=kinds,
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
        match = re.search(r"DtypeE(\d)ELb(\d)", name)
        if not match:
            continue
        dtype = ("float32", "bfloat16", "float16")[int(match[1])]
        title = f"cuda {dtype}{' + statistics' if match[2] == '1' else ''}"
        size = 4 if dtype == "float32" else 2
        lines.append(line(title, arch, code, streaming_loop(code), CUDA_ELEMENTS, *usage[name], 256, size))
    return lines


def triton_lines(folder: Path) -> list[dict]:
    os.environ.pop("TRITON_INTERPRET", None)
    sys.path.insert(0, str(ROOT / "tests"))
    import torch
    from gpu import ptx

    from fastsample.backends import triton as backend
    from fastsample.backends import triton_kernels as kernels

    lines = []
    for arch in (80, 86, 90, 100, 120):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for stats in (False, True):
                absent = frozenset({"indices", *([] if stats else ptx.STATS)})
                one = backend.first_constants(stats)
                k = ptx.compile_kernel(kernels.chunk_statistics, arch, dtype, absent, backend.THREADS, **one)
                name = f"triton 1 {str(dtype)[6:]}{' + statistics' if stats else ''}"
                lines.append(triton_line(folder, k, name, arch, dtype.itemsize, 256 // backend.share(stats)))
            two = backend.second_constants(True, -(-VOCAB // 256), dtype)
            k = ptx.compile_kernel(kernels.finish_rows, arch, dtype, frozenset(), backend.FINISHERS, **two)
            lines.append(triton_line(folder, k, f"triton 2 {str(dtype)[6:]} + statistics", arch, dtype.itemsize, 0))
    return lines


def triton_line(folder: Path, k, title: str, arch: int, size: int, elements: int) -> dict:
    """Of one kernel; `elements` of a thread in one turn of the streaming loop, 0 for the kernel that has none."""
    cubin = folder / "triton.cubin"
    cubin.write_bytes(k.cubin)
    [(name, (registers, shared))] = resources(cubin).items()
    code = instructions(cubin)[name]
    loop = streaming_loop(code) if elements else []
    chip = "100a" if arch == 100 else str(arch)
    result = line(title, chip, code, loop, max(1, elements), registers, max(shared, k.shared), k.threads, size)
    return result if elements else {**result, "instructions": None, "slots": None, "kinds": {}, "load_bytes": None}


def blocks_of(code):
    """Straight pieces: they end behind a branch and before a branch's target."""
    targets = {int(t, 16) for _, o, r in code if o.startswith(("BRA", "BSSY")) for t in re.findall(r"0x([0-9a-f]+)", r)}
    block: list = []
    for item in code:
        if item[0] in targets and block:
            yield block
            block = []
        block.append(item)
        if item[1].startswith(("BRA", "EXIT")):
            yield block
            block = []
    yield block


def table(lines: list[dict]) -> str:
    head = ["kernel", "arch", "registers", "spills", "shared", "occupancy", "load_bytes", "instructions", "slots"]
    rows = [[str(one[h]) if one[h] is not None else "" for h in head] for one in lines]
    text = ["| " + " | ".join(r) + " |" for r in (head, ["---"] * len(head), *rows)]
    text += [
        "",
        f"Bytes read of a row of {VOCAB:,} tokens: 607,744 (float32), 303,872 (16 bit); written: 12 per 256 tokens.",
    ]
    text += ["", "Roofline, microseconds a row = bytes / bandwidth (a bound from datasheets, not a measurement):", ""]
    text += ["| device | TB/s | float32 | 16 bit |", "| --- | --- | --- | --- |"]
    text += [
        f"| {n} | {b / 1e12:.2f} | {VOCAB * 4 / b * 1e6:.3f} | {VOCAB * 2 / b * 1e6:.3f} |" for n, b in DEVICES.items()
    ]
    return "\n".join(text)


def complaints(lines: list[dict], stored: list[dict]) -> list[str]:
    """Spills, narrow loads, and loops that grew by more than 5 %."""
    before = {(one["kernel"], one["arch"]): one for one in stored}
    found = []
    for one in lines:
        name, old = f"{one['kernel']} on {one['arch']}", before.get((one["kernel"], one["arch"]))
        if one["spills"]:
            found.append(f"{name}: {one['spills']} spill instructions")
        if one["load_bytes"] is not None and one["load_bytes"] < 16:
            found.append(f"{name}: loads of {one['load_bytes']} bytes")
        if old and one["instructions"] and one["instructions"] > 1.05 * old["instructions"]:
            found.append(f"{name}: {one['instructions']} instructions per element, {old['instructions']} before")
    return found


def compiled(backends: list[str], archs: list[str] | None) -> list[dict]:
    """The lines of these backends and architectures (None: all); two compilations run at a time."""
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2) as pool:
        parts = [pool.submit(triton_lines, Path(folder))] if "triton" in backends else []
        parts += [pool.submit(cuda_lines, Path(folder), a) for a in archs or CUDA_ARCHITECTURES if "cuda" in backends]
        lines = [one for part in reversed(parts) for one in part.result()]
    order = [f"sm_{arch}" for arch in WARPS_OF_SM]
    lines = [one for one in lines if not archs or one["arch"].removeprefix("sm_") in archs]
    return sorted(lines, key=lambda one: (one["kernel"].startswith("triton"), order.index(one["arch"])))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--backend", choices=("cuda", "triton"), action="append")
    parser.add_argument("--arch", choices=tuple(WARPS_OF_SM), action="append")
    arguments = parser.parse_args()
    lines = compiled(arguments.backend or ["cuda", "triton"], arguments.arch)
    print(table(lines))
    stored = json.loads(STORED.read_text())
    if arguments.write:  # lines that were not asked for stay as they are
        fresh = {(one["kernel"], one["arch"]): one for one in lines}
        known = [fresh.pop((one["kernel"], one["arch"]), one) for one in stored]
        kept = [*known, *fresh.values()] if arguments.backend or arguments.arch else lines
        STORED.write_text(json.dumps(kept, indent=1) + "\n")
        STORED.with_suffix(".md").write_text("# What the kernels cost\n\n" + table(kept) + "\n")
    found = complaints(lines, stored) if arguments.check else []
    print("\n".join(found), file=sys.stderr)
    return len(found) > 0


if __name__ == "__main__":
    sys.exit(main())
