"""The CPU backend as a program without Python (driver.cpp): what it is asked, and what it must answer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from .cases import vectors

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


def draw_every_vector(command: list) -> bytes:
    """Every token and every kept count of the contract's vectors; returns what the program said on stderr."""
    cases = vectors()
    packed = b""
    for v in cases:
        p = v.parameters
        packed += np.array([v.logits.shape[1], len(v.seeds)], np.int64).tobytes()
        packed += np.array([p["temperature"], p["top_p"], p["min_p"]], np.float32).tobytes()
        packed += np.array([p["top_k"]], np.int32).tobytes() + v.logits.numpy().tobytes()
        packed += b"".join(np.array(x, np.int64).tobytes() for x in (v.seeds, v.streams, v.positions))
    done = subprocess.run(command, input=packed, capture_output=True)
    assert done.returncode == 0, done.stderr[-4000:].decode()
    found = np.frombuffer(done.stdout, np.int64)
    for v in cases:
        n = len(v.seeds)
        tokens, kept, found = found[:n], found[n : 2 * n], found[2 * n :]
        assert tokens.tolist() == v.tokens, v.name
        assert v.kept < 0 or set(kept.tolist()) == {v.kept}, v.name
    assert len(found) == 0
    return done.stderr
