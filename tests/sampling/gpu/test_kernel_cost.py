"""The rules by which `make cost` fails, on lines and code made up for them."""

import sys

import pytest

from .ptx import ROOT

sys.path.insert(0, str(ROOT / "bench"))
import kernel_cost
from sass import Instruction, largest_pipe, narrowest_load, slots, spills, streaming_loop, streaming_loops

GOOD = dict(kernel="cuda float32", arch="sm_80", spills=0, load_bytes=16, pipe="issue", largest=20.0)


def test_nothing_is_wrong_with_what_is_stored():
    """Up to 5 % more of the largest pipe pass, and so does a kernel without a streaming loop."""
    assert not kernel_cost.complaints([GOOD | dict(largest=20.9)], [GOOD])
    assert not kernel_cost.complaints([GOOD | dict(largest=None, load_bytes=None)], [GOOD])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(spills=1), "1 spill instructions"),
        (dict(load_bytes=8), "loads of 8 bytes"),
        (dict(largest=21.1), "21.1 slots of issue per element, 20.0 before"),
        (dict(arch="sm_999"), "not in kernel_cost.json"),
    ],
)
def test_each_rule_can_fail(change, sentence):
    """A spill is refused even where the stored line has it."""
    [found] = kernel_cost.complaints([GOOD | change], [GOOD | {k: v for k, v in change.items() if k == "spills"}])
    assert sentence in found


def test_what_one_architecture_spills_must_not_grow():
    """There alone the stored number is allowed."""
    one = GOOD | dict(arch=kernel_cost.SPILLING, spills=45)
    assert not kernel_cost.complaints([one], [one])
    assert kernel_cost.complaints([one | dict(spills=46)], [one]) == [
        f"cuda float32 on {kernel_cost.SPILLING}: 46 spill instructions"
    ]


def test_slots_follow_the_architecture():
    """128 / results per clock: float64 and 64-bit conversions differ most."""
    opcodes = ("FFMA", "IADD3", "SHFL.BFLY", "MUFU.EX2", "F2I.TRUNC.NTZ", "F2F.F64.F32", "DMUL")
    assert [slots(o, "90") for o in opcodes] == [1, 2, 4, 8, 2, 8, 2]
    assert [slots(o, "80") for o in opcodes] == [2, 2, 4, 8, 2, 8, 4]
    assert [slots(o, "120") for o in opcodes] == [1, 2, 4, 8, 2, 64, 64]


def test_the_largest_pipe_is_what_counts():
    """Pipes work side by side: the busiest of them, or the issue of all instructions."""
    code = [Instruction(16 * n, o, "") for n, o in enumerate(["FFMA"] * 6 + ["IADD3"] * 2 + ["SHFL.BFLY", "BRA"])]
    assert largest_pipe(code, "90") == ("issue", 10)
    assert largest_pipe(code, "80") == ("fma", 12)
    assert largest_pipe([*code, Instruction(0, "MUFU.EX2", ""), Instruction(0, "MUFU.EX2", "")], "90") == (
        "special",
        16,
    )


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


def test_each_way_to_read_has_its_loop():
    """Two loops around wide loads, the shorter first, and none for a load that stands alone."""
    opcodes = ["LDG.E.128", "FADD", "FADD", "BRA", "LDG.E.128", "FADD", "BRA", "LDG.E.128", "EXIT"]
    code = [Instruction(16 * n, o, {3: "0x0", 6: "0x40"}.get(n, "")) for n, o in enumerate(opcodes)]
    assert [len(loop) for loop in streaming_loops(code)] == [3, 4]


def test_what_is_executed_can_be_too_much():
    """Instructions, barriers and sweeps each have a limit of their own, and a new row is asked for."""
    executed = pytest.importorskip("executed")
    one = executed.Executed("CUDA", "top_p 0.9", 10_000, 13, 0.1)
    assert not executed.complaints([one._replace(instructions=10_400)], [one])
    for change, sentence in (
        (dict(instructions=10_600), "10,600 warp instructions, 10,000 before"),
        (dict(barriers=15), "15 barriers, 13 before"),
        (dict(sweeps=0.3), "0.3 sweeps of the row, 0.1 before"),
        (dict(row="another"), "CUDA, another: not in executed.json"),
    ):
        [found] = executed.complaints([one._replace(**change)], [one])
        assert sentence in found
