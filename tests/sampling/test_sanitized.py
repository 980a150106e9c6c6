"""The CPU kernels under gcc's sanitizers: every vector, by every instruction set of this processor."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from .cases import backends
from .driver import draw_every_vector

ROOT = Path(__file__).parent.parent.parent
WORKERS = {"avx512": "x86-64-v4", "avx2": "x86-64-v3", "sse2": "x86-64"}
SANITIZED = ["-fsanitize=undefined,address,float-cast-overflow", "-fno-sanitize-recover=all", "-fno-wrapv"]
FLAGS = ["-std=c++17", "-O1", "-g", "-ffp-contract=off", "-pthread", "-w", *SANITIZED]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the workers built here are those of x86-64"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not on the PATH"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sanitized")
    objects = []
    for name, march in WORKERS.items():
        objects.append(folder / f"{name}.o")
        source = f"csrc/cpu/row_{name}.cpp"
        subprocess.run(["g++", *FLAGS, f"-march={march}", "-c", source, "-o", objects[-1]], cwd=ROOT, check=True)
    sources = ["csrc/cpu/dispatch.cpp", "csrc/cpu/threads.cpp", "tests/sampling/driver.cpp"]
    subprocess.run(["g++", *FLAGS, "-o", folder / "draw", *sources, *objects], cwd=ROOT, check=True)
    return folder / "draw"


@pytest.mark.parametrize("name", [name.removeprefix("cpu:") for name in backends()[1:]])
def test_every_vector_is_clean(program, name):
    """No undefined operation and no access out of bounds; the tokens are the contract's."""
    assert draw_every_vector([program, name]) == name.encode()
