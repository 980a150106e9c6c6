"""Callers in several threads at once, watched by the sanitizer for races.

The CPU backend is built as a program without Python, with the sanitizer in it (tests/sampling/callers.cpp): four
threads draw from the same rows at once, each with another number of helpers, so that some get the pool of threads and
the others draw alone. Every token must be the one that a single caller draws.
"""

from __future__ import annotations

import platform
import random
import shutil
import subprocess
from collections import Counter
from pathlib import Path

from sampling.driver import ROOT, program_of

from attack.turns import MissingError

WHAT = "several callers of the CPU kernels at once, each with threads of its own, under the thread sanitizer"
COUNTED = "draws"
SOURCE = ROOT / "tests" / "sampling" / "callers.cpp"


def prepare(place: Path, source: Path = SOURCE) -> Path:
    """Build the program."""
    if platform.machine() != "x86_64" or shutil.which("g++") is None:
        raise MissingError("the program is built for x86-64 by g++")
    return program_of(place, source, flags=["-fsanitize=thread"])


def turn(program: Path, choose: random.Random) -> Counter[str]:
    """Twenty sets of rows, and twelve calls of each by four threads."""
    done = subprocess.run([program, str(choose.getrandbits(63))], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr[:3000]}"
    return Counter(draws=int(done.stdout), calls=20 * 12)
