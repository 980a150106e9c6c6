"""Which instruction set is chosen: one that processor and operating system have whole, or a lesser one."""

import platform
from pathlib import Path

import pytest

_cpu = pytest.importorskip("fastsample.sampling.backends._cpu", reason="the compiled extension is missing")
pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="CPUID is of x86-64")

# The x86-64 psABI's levels: name as Linux has it, word of CPUID, bit.
LEAF_1_ECX, LEAF_7_EBX, EXTENDED_ECX = range(3)
V3 = (  # with those of v2
    *(("pni", LEAF_1_ECX, 0), ("ssse3", LEAF_1_ECX, 9), ("cx16", LEAF_1_ECX, 13), ("sse4_1", LEAF_1_ECX, 19)),
    *(("sse4_2", LEAF_1_ECX, 20), ("popcnt", LEAF_1_ECX, 23), ("lahf_lm", EXTENDED_ECX, 0)),
    *(("fma", LEAF_1_ECX, 12), ("movbe", LEAF_1_ECX, 22), ("xsave", LEAF_1_ECX, 27), ("avx", LEAF_1_ECX, 28)),
    *(("f16c", LEAF_1_ECX, 29), ("abm", EXTENDED_ECX, 5)),
    *(("bmi1", LEAF_7_EBX, 3), ("avx2", LEAF_7_EBX, 5), ("bmi2", LEAF_7_EBX, 8)),
)
V4 = (
    *(("avx512f", LEAF_7_EBX, 16), ("avx512dq", LEAF_7_EBX, 17), ("avx512cd", LEAF_7_EBX, 28)),
    *(("avx512bw", LEAF_7_EBX, 30), ("avx512vl", LEAF_7_EBX, 31)),
)
SSE_AND_AVX, AVX512 = 0b110, 0b11100000  # of XCR0: registers that the operating system saves


def words(features):
    found = [0, 0, 0]
    for _, word, bit in features:
        found[word] |= 1 << bit
    return found


def without(features, name):
    return [f for f in features if f[0] != name]


@pytest.mark.parametrize("name", [f[0] for f in V3])
def test_a_feature_of_v3_is_missing(name):
    """Whatever it is: the compiler may have used it, so neither AVX2 nor AVX-512 code is run."""
    assert _cpu.x86_64_level(*words(without(V3 + V4, name)), SSE_AND_AVX | AVX512) == 1


@pytest.mark.parametrize("name", [f[0] for f in V4])
def test_a_feature_of_v4_is_missing(name):
    """AVX2 is left."""
    assert _cpu.x86_64_level(*words(without(V3 + V4, name)), SSE_AND_AVX | AVX512) == 3


@pytest.mark.parametrize(
    ("saved", "level"),
    [(SSE_AND_AVX | AVX512, 4), (2**64 - 1, 4), (SSE_AND_AVX, 3), (0b10, 1), (0b100, 1), (0, 1), (AVX512, 1)]
    + [(SSE_AND_AVX | AVX512 & ~(1 << bit), 3) for bit in (5, 6, 7)],
)
def test_the_operating_system_saves_the_registers(saved, level):
    """Every part of XCR0 that a level needs, or the level is not used."""
    assert _cpu.x86_64_level(*words(V3 + V4), saved) == level


def test_other_bits_do_not_count():
    """All other features on: nothing; all of them off: everything."""
    ones = [2**32 - 1] * 3
    assert _cpu.x86_64_level(*(one & ~word for one, word in zip(ones, words(V3))), 2**64 - 1) == 1
    assert _cpu.x86_64_level(*ones, 2**64 - 1) == 4
    assert _cpu.x86_64_level(*words(V3), 2**64 - 1) == 3


def test_this_processor():
    """What Linux says of it."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    line = next((line for line in text.splitlines() if line.startswith("flags")), None)
    if line is None:
        pytest.skip("there is no /proc/cpuinfo with flags")
    flags = set(line.split())
    has_v3 = all(name in flags for name, *_ in V3)
    has_v4 = has_v3 and all(name in flags for name, *_ in V4)
    expected = ["avx512"] * has_v4 + ["avx2"] * has_v3 + ["x86-64"]
    assert _cpu.instruction_sets() == expected
