"""The CPU backend as a program without Python (driver.cpp): what it is asked, and what it must answer."""

from __future__ import annotations

import subprocess

import numpy as np

from .cases import vectors


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
