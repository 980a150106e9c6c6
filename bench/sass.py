"""A cubin's machine code: its instructions, the loop that streams the row, and what each instruction costs to issue."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Instruction(NamedTuple):
    address: int
    opcode: str
    operands: str

    def targets(self) -> set[int]:
        return {int(t, 16) for t in re.findall(r"0x([0-9a-f]+)", self.operands)}


Code = list[Instruction]

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


def pipe(opcode: str) -> str | None:
    """The pipe that executes an instruction, beside the others; None for what only takes its issue slot."""
    if opcode.startswith(FREE):
        return None
    if opcode.startswith(("FADD", "FMUL", "FFMA", "IMAD", "HFMA2")):
        return "fma"
    if opcode.startswith(("MUFU", "F2F", "F2I", "I2F", "FRND")):
        return "special"
    if re.match(r"D(ADD|MUL|FMA|SETP|MNMX)", opcode):
        return "float64"
    return "memory" if opcode.startswith(("LD", "ST", "SHFL", "ATOM", "RED")) else "alu"


def largest_pipe(code: Code, arch: str) -> tuple[str, int]:
    """The pipe that code keeps busy longest, and its issue slots. All instructions take one slot of "issue"."""
    taken = Counter(issue=len(code))
    for i in code:
        if name := pipe(i.opcode):
            taken[name] += slots(i.opcode, arch)
    return max(taken.items(), key=lambda item: item[1])


def kind(opcode: str) -> str:
    for name, start in (("load", "LDG"), ("store", "STG"), ("shuffle", "SHFL"), ("convert", ("F2I", "I2F", "F2F"))):
        if opcode.startswith(start):
            return name
    if opcode.startswith(("FADD", "FMUL", "FFMA", "FMNMX", "FSETP", "FSEL")):
        return "float32"
    return "float64" if re.match(r"D(ADD|MUL|FMA|SETP)", opcode) else "other"


def spills(code: Code) -> int:
    """Stores to and loads from local memory."""
    return sum(i.opcode.startswith(("STL", "LDL")) for i in code)


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


def instructions(cubin: Path) -> dict[str, Code]:
    """The code of each kernel, with addresses in the place of labels."""
    text = subprocess.run([tool("nvdisasm"), "-c", cubin], capture_output=True, text=True, check=True).stdout
    found: dict[str, Code] = {}
    labels: dict[str, int] = {}
    current: Code = []
    waiting: list[str] = []
    for line in text.splitlines():
        if match := re.match(r"\.text\.([^:]+):", line):
            current = found.setdefault(match[1], [])
        elif match := re.match(r"(\.L_x_\d+):", line):
            waiting.append(match[1])
        elif match := re.search(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)(.*?);", line):
            labels.update(dict.fromkeys(waiting, int(match[1], 16)))
            waiting = []
            current.append(Instruction(int(match[1], 16), match[2], match[3]))
    for code in found.values():
        code[:] = [
            i._replace(operands=re.sub(r"\.L_x_\d+", lambda m: hex(labels.get(m[0], 0)), i.operands)) for i in code
        ]
    return found


def streaming_loop(code: Code) -> Code:
    """The first of `streaming_loops`."""
    loops = streaming_loops(code)
    assert loops, "no loop around a 16-byte load"
    return loops[0]


def streaming_loops(code: Code) -> list[Code]:
    """The smallest loop around each 16-byte load, without the blocks that load element by element (the tail).

    Each once, the shortest first: a kernel has one for every way in which it reads a row.
    """
    wide = [i.address for i in code if load_width(i.opcode) == 16]
    jumps = [(i.address, target) for i in code if i.opcode.startswith("BRA") for target in i.targets()]
    spans = set()
    for address in wide:
        around = [(end - start, start, end) for end, start in jumps if start <= address <= end]
        spans.update([min(around)] if around else [])
    loops = ([i for i in code if first <= i.address <= last] for _, first, last in spans)
    found = ([i for block in blocks_of(loop) if not is_tail(block) for i in block] for loop in loops)
    return sorted((loop for loop in found if loop), key=len)


def blocks_of(code: Code) -> Iterator[Code]:
    """Straight pieces: they end behind a branch and before a branch's target."""
    targets = {t for i in code if i.opcode.startswith(("BRA", "BSSY")) for t in i.targets()}
    block: Code = []
    for item in code:
        if item.address in targets and block:
            yield block
            block = []
        block.append(item)
        if item.opcode.startswith(("BRA", "EXIT")):
            yield block
            block = []
    yield block


def is_tail(block: Code) -> bool:
    widths = [load_width(i.opcode) for i in block]
    return sum(0 < w < 16 for w in widths) >= 2 or 2 in widths


def load_width(opcode: str) -> int:
    """Bytes that a load from global memory brings to a lane; 0 for other instructions."""
    if not opcode.startswith("LDG"):
        return 0
    return next((n for mark, n in ((".128", 16), (".64", 8), ("16", 2), ("8", 1)) if mark in opcode), 4)


def narrowest_load(loop: Code, need: int) -> int:
    """Of the loads that bring a lane its `need` bytes of the row: widest first, what is left over are parameters."""
    for width in sorted((load_width(i.opcode) for i in loop), reverse=True):
        need -= width
        if need <= 0 or not width:
            return width
    return 0
