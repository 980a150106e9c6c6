"""The aarch64 build: cross-compiled, and its vectors drawn under emulation."""

import platform
import shutil

import pytest

from .driver import draw_every_vector, neon_program

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if platform.machine() == "aarch64":
        pytest.skip("this machine runs the NEON code itself, in every other test")
    if not shutil.which(COMPILER):
        pytest.skip(f"{COMPILER} is not installed")
    return neon_program(tmp_path_factory.mktemp("neon"))


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
