"""The CPU backend as a program without Python (driver.cpp): what it is asked, and what it must answer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from .cases import Vector, vectors

ROOT = Path(__file__).parent.parent.parent
WORKERS = {"avx512": "x86-64-v4", "avx2": "x86-64-v3", "sse2": "x86-64"}
SANITIZED = ["-fsanitize=undefined,address,float-cast-overflow", "-fno-sanitize-recover=all", "-fno-wrapv"]


def program_of(folder: Path, main: Path, compiler: str = "g++", flags: list = SANITIZED) -> Path:
    """The CPU backend with every instruction set of x86-64 and the file with an entry, as a program."""
    flags = ["-std=c++17", "-O1", "-g", "-ffp-contract=off", "-pthread", "-w", *flags]
    objects = []
    for name, march in WORKERS.items():
        objects.append(folder / f"{name}.o")
        source = f"csrc/cpu/row_{name}.cpp"
        subprocess.run([compiler, *flags, f"-march={march}", "-c", source, "-o", objects[-1]], cwd=ROOT, check=True)
    sources = ["csrc/cpu/dispatch.cpp", "csrc/cpu/threads.cpp", main]
    subprocess.run([compiler, *flags, "-o", folder / "program", *sources, *objects], cwd=ROOT, check=True)
    return folder / "program"


def neon_program(folder: Path) -> Path:
    """The same for aarch64, by a cross compiler."""
    sources = ["csrc/cpu/row_neon.cpp", "csrc/cpu/dispatch.cpp", "csrc/cpu/threads.cpp", "tests/sampling/driver.cpp"]
    flags = ["-std=c++17", "-O2", "-march=armv8-a", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-static"]
    command = ["aarch64-linux-gnu-g++", *flags, "-pthread", "-o", folder / "neon", *sources]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder / "neon"


def drawn(command: list, cases: list[Vector]) -> tuple[list[tuple[list[int], list[int]]], bytes]:
    """What the program draws: tokens and kept counts of each case; and what it said on stderr."""
    packed = b""
    for v in cases:
        p = v.parameters
        packed += np.array([v.logits.shape[1], len(v.seeds)], np.int64).tobytes()
        packed += np.array([p["temperature"], p["top_p"], p["min_p"]], np.float32).tobytes()
        packed += np.array([p["top_k"]], np.int32).tobytes() + v.logits.numpy().tobytes()
        packed += b"".join(np.array(x, np.int64).tobytes() for x in (v.seeds, v.streams, v.positions))
    done = subprocess.run(command, input=packed, capture_output=True)
    assert done.returncode == 0, done.stderr[-4000:].decode()
    values, found = np.frombuffer(done.stdout, np.int64), []
    for v in cases:
        n = len(v.seeds)
        found.append((values[:n].tolist(), values[n : 2 * n].tolist()))
        values = values[2 * n :]
    assert len(values) == 0
    return found, done.stderr


def draw_every_vector(command: list) -> bytes:
    """Every token and every kept count of the contract's vectors; returns what the program said on stderr."""
    cases = vectors()
    found, said = drawn(command, cases)
    for v, (tokens, kept) in zip(cases, found):
        assert tokens == v.tokens, v.name
        assert v.kept < 0 or set(kept) == {v.kept}, v.name
    return said
