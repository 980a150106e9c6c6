"""The CPU kernels under gcc's sanitizers: every vector, by every instruction set of this processor."""

import platform
import shutil

import pytest

from .cases import backends
from .driver import ROOT, draw_every_vector, program_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the workers built here are those of x86-64"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not on the PATH"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return program_of(tmp_path_factory.mktemp("sanitized"), ROOT / "tests/sampling/driver.cpp")


@pytest.mark.parametrize("name", [name.removeprefix("cpu:") for name in backends()[1:]])
def test_every_vector_is_clean(program, name):
    """No undefined operation and no access out of bounds; the tokens are the contract's."""
    assert draw_every_vector([program, name]) == name.encode()
