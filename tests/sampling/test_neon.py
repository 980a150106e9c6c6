"""The aarch64 build: cross-compiled, and its vectors drawn under emulation."""

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from .cases import vectors

ROOT = Path(__file__).parent.parent.parent
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
SOURCES = ["csrc/cpu/row_neon.cpp", "csrc/cpu/dispatch.cpp", "csrc/cpu/threads.cpp", "tests/sampling/neon_driver.cpp"]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if platform.machine() == "aarch64":
        pytest.skip("this machine runs the NEON code itself, in every other test")
    if not shutil.which(COMPILER):
        pytest.skip(f"{COMPILER} is not installed")
    path = tmp_path_factory.mktemp("neon") / "draw"
    flags = ["-std=c++17", "-O2", "-march=armv8-a", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-static"]
    subprocess.run([COMPILER, *flags, "-pthread", "-o", path, *SOURCES], cwd=ROOT, check=True)
    return path


def test_neon_compiles(program):
    """Without a warning, for plain armv8-a."""
    assert program.stat().st_size > 0


@pytest.mark.slow
def test_neon_draws_every_vector(program):
    """The NEON code, executed: every token and every kept count."""
    if not shutil.which(EMULATOR):
        pytest.skip(f"{EMULATOR} is not installed")
    cases = vectors()
    packed = b""
    for v in cases:
        p = v.parameters
        packed += np.array([v.logits.shape[1], len(v.seeds)], np.int64).tobytes()
        packed += np.array([p["temperature"], p["top_p"], p["min_p"]], np.float32).tobytes()
        packed += np.array([p["top_k"]], np.int32).tobytes() + v.logits.numpy().tobytes()
        packed += b"".join(np.array(x, np.int64).tobytes() for x in (v.seeds, v.streams, v.positions))
    done = subprocess.run([EMULATOR, program], input=packed, capture_output=True, check=True)
    assert done.stderr == b"neon"
    found = np.frombuffer(done.stdout, np.int64)
    for v in cases:
        n = len(v.seeds)
        tokens, kept, found = found[:n], found[n : 2 * n], found[2 * n :]
        assert tokens.tolist() == v.tokens, v.name
        assert v.kept < 0 or set(kept.tolist()) == {v.kept}, v.name
    assert len(found) == 0
