"""The aarch64 build: cross-compiled, and its vectors drawn under emulation."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from .driver import draw_every_vector

ROOT = Path(__file__).parent.parent.parent
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
SOURCES = ["csrc/cpu/row_neon.cpp", "csrc/cpu/dispatch.cpp", "csrc/cpu/threads.cpp", "tests/sampling/driver.cpp"]


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
    said = draw_every_vector([EMULATOR, program])
    assert said == b"neon"
