"""The oracle of `oracle.cpp`, built with the system's compiler and called on arrays."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np

from attack.turns import MissingError

PROCESSOR = Path("/proc/cpuinfo")
SOURCE = Path(__file__).with_name("oracle.cpp")
FLAGS = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]


class Draws(NamedTuple):
    """Draws in groups: those of a group share a row and the filters, and differ in their randomness.

    logits: [N, V] float32; rows, temperature, top_k, top_p, min_p: [G]; group, seed, stream, position: [B]
    """

    logits: np.ndarray
    rows: np.ndarray
    temperature: np.ndarray
    top_k: np.ndarray
    top_p: np.ndarray
    min_p: np.ndarray
    group: np.ndarray
    seed: np.ndarray
    stream: np.ndarray
    position: np.ndarray


class Oracle:
    """Builds the library in `place`; called with `Draws` it returns (tokens [B], kept [B]), int64."""

    def __init__(self, place: Path) -> None:
        compiler = shutil.which("g++") or shutil.which("c++")
        if compiler is None:
            raise MissingError("the oracle needs a C++17 compiler, got none on the PATH; install g++")
        library = place / "oracle.so"
        fused = ["-mfma"] if PROCESSOR.exists() and " fma " in PROCESSOR.read_text() else []  # a call of libm otherwise
        subprocess.run([compiler, *FLAGS, *fused, "-o", library, SOURCE], check=True)
        self._draw = ctypes.CDLL(str(library)).draw
        self._draw.restype = None

    def __call__(self, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        groups, count = len(draws.rows), len(draws.group)
        members = np.argsort(draws.group, kind="stable").astype(np.int64)
        starts = np.concatenate([[0], np.bincount(draws.group, minlength=groups).cumsum()]).astype(np.int64)
        tokens, kept = np.empty(count, np.int64), np.empty(count, np.int64)
        arrays = (
            (draws.rows, np.int64), (starts, np.int64), (members, np.int64), (draws.temperature, np.float32),
            (draws.top_k, np.int32), (draws.top_p, np.float32), (draws.min_p, np.float32), (draws.seed, np.int64),
            (draws.stream, np.int64), (draws.position, np.int64), (tokens, np.int64), (kept, np.int64),
        )  # fmt: skip
        assert draws.logits.dtype == np.float32
        assert draws.logits.flags.c_contiguous
        for array, dtype in arrays:
            assert array.dtype == dtype
            assert array.flags.c_contiguous
        vocab = ctypes.c_int64(draws.logits.shape[1])
        pointers = [ctypes.c_void_p(array.ctypes.data) for array, _ in arrays]
        self._draw(ctypes.c_void_p(draws.logits.ctypes.data), vocab, ctypes.c_int64(groups), *pointers)
        return tokens, kept
