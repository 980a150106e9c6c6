"""The rules by which `make cost` fails, on lines and code made up for them."""

import sys

import pytest

from .ptx import ROOT

sys.path.insert(0, str(ROOT / "bench"))
import kernel_cost
from sass import Instruction, narrowest_load, slots, spills, streaming_loop

GOOD = dict(kernel="cuda float32", arch="sm_80", spills=0, load_bytes=16, instructions=20.0)


def test_nothing_is_wrong_with_what_is_stored():
    """Up to 5 % more instructions pass, and so does a kernel without a streaming loop."""
    assert not kernel_cost.complaints([GOOD | dict(instructions=20.9)], [GOOD])
    assert not kernel_cost.complaints([GOOD | dict(instructions=None, load_bytes=None)], [GOOD])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(spills=1), "1 spill instructions"),
        (dict(load_bytes=8), "loads of 8 bytes"),
        (dict(instructions=21.1), "21.1 instructions per element, 20.0 before"),
        (dict(arch="sm_999"), "not in kernel_cost.json"),
    ],
)
def test_each_rule_can_fail(change, sentence):
    """A spill is refused even where the stored line has it."""
    [found] = kernel_cost.complaints([GOOD | change], [GOOD | {k: v for k, v in change.items() if k == "spills"}])
    assert sentence in found


def test_slots_follow_the_architecture():
    """128 / results per clock: float64 and 64-bit conversions differ most."""
    opcodes = ("FFMA", "IADD3", "SHFL.BFLY", "MUFU.EX2", "F2I.TRUNC.NTZ", "F2F.F64.F32", "DMUL")
    assert [slots(o, "90a") for o in opcodes] == [1, 2, 4, 8, 2, 8, 2]
    assert [slots(o, "80") for o in opcodes] == [2, 2, 4, 8, 2, 8, 4]
    assert [slots(o, "120") for o in opcodes] == [1, 2, 4, 8, 2, 64, 64]


def test_the_loop_is_found_and_measured():
    """The inner loop around the wide load, without the block that reads logit by logit; parameters do not count."""
    opcodes = ["LDG.E", "LDG.E.128", "BRA", "LDG.E.U16", "BRA", "STL", "BRA", "BRA", "EXIT"]
    operands = {2: "0x50", 4: "0x50", 6: "0x10", 7: "0x0"}
    code = [Instruction(16 * n, o, operands.get(n, "")) for n, o in enumerate(opcodes)]
    assert [i.opcode for i in streaming_loop(code)] == ["LDG.E.128", "BRA", "STL", "BRA"]
    assert spills(code) == 1
    assert narrowest_load(code, 16) == 16
    assert narrowest_load(code, 17) == 4
    assert narrowest_load(code, 99) == 0
