"""The CUDA kernel compiled for the host CPU, as a process that answers calls: under sanitizers, with faults planted.

The header that makes it possible is a tool beside the checkout (`../shared/tools/cuda_on_host`, see `ptx.TOOLS`).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fastsample.sampling.backends.arguments import DTYPE_CODES
from fastsample.sampling.edits import EditColumns

from .ptx import ROOT, TOOLS

HEADER = TOOLS / "cuda_on_host" / "cuda_on_host.h"
MISSING = f"the host emulation of CUDA is missing: no {HEADER.name} in the tools folder beside the checkout"
FLAGS = ["-std=c++20", "-O1", "-g", "-ffp-contract=off", "-fno-strict-aliasing", "-pthread", "-w"]


class Answer(NamedTuple):
    tokens: list[int]
    kept: list[int]
    stats: np.ndarray  # [4, B] float32


def build(*flags: str, root: Path = ROOT) -> Path:
    """The program, compiled once per source and flags into the temporary folder; `root` holds csrc."""
    sources = [*sorted((root / "csrc").rglob("*.*h")), ROOT / "tests/sampling/gpu/host.cpp", HEADER]
    key = hashlib.sha256(b"".join(s.read_bytes() for s in sources) + " ".join(flags).encode()).hexdigest()[:16]
    program = Path(tempfile.gettempdir()) / f"fastsample-on-host-{key}"
    if not program.exists():
        with tempfile.TemporaryDirectory() as folder:
            # A warp that shuffles while the others wait at a barrier counts as idle there, and 64 rounds are soon over.
            patient = HEADER.read_text().replace("++idle > 64", "++idle > 20000")
            Path(folder, HEADER.name).write_text(patient)
            part = Path(folder, "program")
            include = [f"-I{folder}", f"-I{root}"]
            subprocess.run(
                ["g++", *FLAGS, *flags, *include, ROOT / "tests/sampling/gpu/host.cpp", "-o", part], check=True
            )
            shutil.move(part, program)
    return program


def question(
    logits,
    columns: dict,
    splits: int,
    schedule: int,
    with_stats: bool,
    edits: EditColumns | None = None,
    allowed=None,
    team: int = 1,
) -> bytes:
    """One call as the program reads it; columns hold a value a row. `team` blocks finish a row together."""
    rows = len(columns["seed"])
    count, vocab = logits.shape
    entries = 0 if edits is None else edits.ids.shape[1]
    sizes = [DTYPE_CODES[logits.dtype], count, vocab, rows, splits, schedule, with_stats, entries, allowed is not None]
    head = np.array([*sizes, team], np.int64).tobytes()
    row_bytes = logits.contiguous().view(torch.uint8).numpy().tobytes()
    types = dict(
        temperature="f4", top_p="f4", min_p="f4", top_k="i4", seed="i8", stream="i8", position="i8", indices="i8"
    )
    flat = [np.asarray(columns[n], t) for n, t in types.items()]
    flat += [np.zeros(3 * rows, "f4")] if edits is None else [column.numpy() for column in edits]
    flat += [] if allowed is None else [allowed.numpy()]
    return head + row_bytes + b"".join(values.tobytes() for values in flat)


def ask(program: Path, questions: list[tuple[bytes, int]], timeout: float = 300) -> tuple[list[Answer], str]:
    """Answers to (question, rows), and what the sanitizers said; raises CalledProcessError where the program failed."""
    done = subprocess.run(
        [str(program)], input=b"".join(q for q, _ in questions), capture_output=True, check=True, timeout=timeout
    )
    answers, at = [], 0
    for _, n in questions:
        integers = np.frombuffer(done.stdout, np.int64, 2 * n, at)
        floats = np.frombuffer(done.stdout, np.float32, 4 * n, at + 16 * n)
        answers.append(Answer(integers[:n].tolist(), integers[n:].tolist(), floats.reshape(4, n)))
        at += 32 * n
    return answers, done.stderr.decode()
