"""What the GPU kernels cost, from the compiled code alone: no GPU is needed, and no time is measured.

    python bench/kernel_cost.py            print the table
    python bench/kernel_cost.py --write    and store it in bench/kernel_cost.json and bench/kernel_cost.md
    python bench/kernel_cost.py --check    fail on new spills, loads narrower than 16 bytes, 5 % more instructions

Instructions are counted in SASS, in the loop that streams the row (Triton: in the whole first kernel), weighted by how
many issue slots of a multiprocessor's 128 lanes each takes: 1 for float32, 2 for int32, comparisons, minima and 32-bit
conversions, 4 for shuffles, 16 for float64 and 64-bit conversions (as the CUDA programming guide has them).
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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "bench/kernel_cost.json"
VOCAB = 151_936
DEVICES = {"A100 80GB": 2.04e12, "H100 SXM": 3.35e12, "B200": 8.0e12, "RTX 4090": 1.008e12}  # bytes/s, datasheets
WARPS_OF_SM = {"80": 64, "86": 48, "89": 48, "90": 64, "90a": 64, "100a": 64, "120": 48}
SHARED_OF_SM = {"80": 164, "86": 100, "89": 100, "90": 228, "90a": 228, "100a": 228, "120": 100}  # kB
ONE = ("FADD", "FMUL", "FFMA", "MOV", "CS2R", "S2R", "LDC", "R2UR", "S2UR", "U", "BAR", "BRA", "EXIT", "BSSY", "BSYNC")
SLOW = re.compile(r"^(DADD|DMUL|DFMA|DSETP|F2F|I2F\.F64|F2I\.S64|F2I\.U64|I2F\.S64|MUFU)")


def slots(opcode: str) -> int:
    if opcode.startswith("SHFL"):
        return 4
    if SLOW.match(opcode) or (".64" in opcode and opcode.startswith(("F2I", "I2F"))):
        return 16
    return 1 if opcode.startswith(ONE) else 2


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
    wide = [a for a, o, _ in code if o.startswith("LDG") and ".128" in o]
    jumps = [(a, int(t, 16)) for a, o, r in code if o.startswith("BRA") for t in re.findall(r"0x([0-9a-f]+)", r)]
    around = [(a - target, target, a) for a, target in jumps if target <= wide[0] <= a]
    assert around, "no loop around the 16-byte loads"
    _, first, last = min(around)
    loop = [c for c in code if first <= c[0] <= last]
    return [item for block in blocks_of(loop) if not is_tail(block) for item in block]


def is_tail(block: list[tuple[int, str, str]]) -> bool:
    return sum(o.startswith("LDG") and ".128" not in o for _, o, _ in block) >= 2 or any(
        ".U16" in o for _, o, _ in block
    )


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
        load_bytes=16 if any(".128" in o for _, o, _ in loop if o.startswith("LDG")) else 4,
        instructions=round(len(loop) / elements, 2),
        slots=round(sum(slots(o) for _, o, _ in loop) / elements, 2),
        kinds=kinds,
        read=VOCAB * size,
        written=12 * chunks,
    )


def cuda_lines(folder: Path) -> list[dict]:
    lines = []
    for arch in ("80", "86", "89", "90a", "100a", "120"):
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
            lines.append(line(title, arch, code, streaming_loop(code), 16, *usage[name], 256, size))
    return lines


def triton_lines(folder: Path) -> list[dict]:
    os.environ.pop("TRITON_INTERPRET", None)
    sys.path.insert(0, str(ROOT / "tests"))
    import torch
    from gpu import ptx

    from fastsample.backends import triton as backend
    from fastsample.backends import triton_kernels as kernels

    lines = []
    for arch in (80, 90, 120):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for stats in (False, True):
                absent = frozenset({"indices", *([] if stats else ptx.STATS)})
                warps = backend.first_warps(stats)
                one = dict(WITH_STATS=stats, TILE=backend.TILE)
                k = ptx.compile_kernel(kernels.chunk_statistics, arch, dtype, absent, warps, **one)
                lines.append(
                    triton_line(folder, k, f"triton 1 {str(dtype)[6:]}", stats, arch, dtype.itemsize, backend.TILE)
                )
            two = dict(WITH_STATS=True, BLOCK=1024, CAPACITY=backend.CAPACITY, STEPS=backend.STEPS[dtype])
            k = ptx.compile_kernel(kernels.finish_rows, arch, dtype, frozenset(), backend.WARPS, **two)
            lines.append(triton_line(folder, k, f"triton 2 {str(dtype)[6:]}", True, arch, dtype.itemsize, 0))
    return lines


def triton_line(folder: Path, k, title: str, stats: bool, arch: int, size: int, tile: int) -> dict:
    cubin = folder / "triton.cubin"
    cubin.write_bytes(k.cubin)
    [(name, (registers, shared))] = resources(cubin).items()
    code = instructions(cubin)[name]
    # No loop: a program's straight line, without the branch that masks its loads.
    body = [c for b in blocks_of(code) if not is_tail(b) for c in b if c[1] != "NOP"] if tile else code
    result = line(
        title + (" + statistics" if stats else ""), str(arch), code, body, max(1, tile * 256 // k.threads), registers,
        max(shared, k.shared), k.threads, size,
    )  # fmt: skip
    return result if tile else {**result, "instructions": None, "slots": None, "kinds": {}, "load_bytes": None}


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
    """Spills that were not there, narrow loads, and loops that grew by more than 5 %."""
    before = {(one["kernel"], one["arch"]): one for one in stored}
    found = []
    for one in lines:
        name, old = f"{one['kernel']} on {one['arch']}", before.get((one["kernel"], one["arch"]))
        if one["spills"] > (old["spills"] if old else 0):
            found.append(f"{name}: {one['spills']} spill instructions")
        if one["load_bytes"] is not None and one["load_bytes"] < 16:
            found.append(f"{name}: loads of {one['load_bytes']} bytes")
        if old and one["instructions"] and one["instructions"] > 1.05 * old["instructions"]:
            found.append(f"{name}: {one['instructions']} instructions per element, {old['instructions']} before")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = cuda_lines(Path(folder)) + triton_lines(Path(folder))
    print(table(lines))
    if arguments.write:
        STORED.write_text(json.dumps(lines, indent=1) + "\n")
        STORED.with_suffix(".md").write_text("# What the kernels cost\n\n" + table(lines) + "\n")
    found = complaints(lines, json.loads(STORED.read_text())) if arguments.check else []
    print("\n".join(found), file=sys.stderr)
    return len(found) > 0


if __name__ == "__main__":
    sys.exit(main())
