"""Other processors, emulated: the CPU kernels' other instruction sets, drawing what the oracle draws.

The program without Python of tests/sampling is built for x86-64 and run by qemu as a processor without AVX and as one
with AVX2 alone, where it must choose by itself what that processor can run; and it is built for aarch64.
"""

from __future__ import annotations

import platform
import random
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sampling.cases import Vector
from sampling.driver import drawn, neon_program, program_of

from attack.draws import any_row, filters, numbers
from attack.oracle import Draws, Oracle
from attack.turns import MissingError

WHAT = "the kernels on emulated processors (x86-64 without AVX, with AVX2 alone, aarch64), against the same oracle"
COUNTED = "draws"
PROCESSORS = {"x86-64": "Nehalem", "avx2": "Haswell"}  # what qemu plays -> what must be chosen there
ROWS, DRAWS = 20, 16


class Prepared(NamedTuple):
    """The oracle, and a command for each instruction set."""

    oracle: Oracle
    commands: dict[str, list[str]]


def prepare(place: Path) -> Prepared:
    """Build what this machine can build and emulate."""
    commands = {}
    if platform.machine() == "x86_64" and shutil.which("qemu-x86_64-static"):
        folder = place / "x86"
        folder.mkdir()
        program = program_of(folder, Path(__file__).parents[1] / "sampling" / "driver.cpp", flags=["-O2", "-static"])
        for name, processor in PROCESSORS.items():
            commands[name] = ["qemu-x86_64-static", "-cpu", processor, str(program)]
    if shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64-static"):
        commands["neon"] = ["qemu-aarch64-static", str(neon_program(place))]
    if not commands:
        raise MissingError("qemu-user-static is not installed")
    return Prepared(Oracle(place), commands)


def turn(prepared: Prepared, choose: random.Random) -> Counter[str]:
    """Some rows by each processor."""
    rng = np.random.default_rng(choose.getrandbits(64))
    vectors, expected = [], []
    for _ in range(ROWS):
        vocab = int(2000 ** choose.random())
        row, parameters = any_row(vocab, rng), filters(1, vocab, rng)
        randomness = [numbers(DRAWS, rng) for _ in range(3)]
        zeros = np.zeros(DRAWS, np.int64)
        expected.append(prepared.oracle(Draws(row[None], zeros[:1], *parameters, zeros, *randomness)))
        values = dict(zip(("temperature", "top_k", "top_p", "min_p"), (column[0] for column in parameters)))
        seeds, streams, positions = (column.tolist() for column in randomness)
        vectors.append(Vector("", torch.from_numpy(row)[None], values, seeds, streams, positions, [], 0))
    counts = Counter()
    for name, command in prepared.commands.items():
        found, said = drawn(command, vectors)
        chosen = re.sub(r"qemu-\S+ warning: .*\n", "", said.decode())  # of features that it cannot play
        assert chosen == name, f"{chosen} was chosen on {command}"
        for vector, (tokens, kept), (right, right_kept) in zip(vectors, found, expected):
            assert tokens == right.tolist(), f"{name}: {vector.parameters}, V = {vector.logits.shape[1]}"
            assert kept == right_kept.tolist(), f"{name}: {vector.parameters}, V = {vector.logits.shape[1]}"
        counts.update({"draws": ROWS * DRAWS, f"draws of {name}": ROWS * DRAWS})
    return counts
