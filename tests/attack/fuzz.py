"""libFuzzer on the CPU kernels: bytes that become calls, mutated towards new code, under the sanitizers.

`fuzz.cpp` makes a call of the bytes, with any parameters at all, those that the contract refuses among them. The inputs
that reached new code are kept in corpus.zip; every turn begins with them and mutates them for some seconds.
"""

from __future__ import annotations

import platform
import random
import re
import shutil
import subprocess
import zipfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from sampling.driver import SANITIZED, program_of

from attack.turns import MissingError

WHAT = "calls of the kernels made of any bytes, by libFuzzer with a corpus, under the address and undefined sanitizers"
COUNTED = "calls"
HERE = Path(__file__).parent
CORPUS = HERE / "corpus.zip"
SECONDS = 10  # of a turn
LIMITS = ["-max_len=2048", "-timeout=25", "-rss_limit_mb=3000", "-print_final_stats=1", "-verbosity=0"]


class Prepared(NamedTuple):
    """The program, and the folder of inputs that it adds to."""

    program: Path
    inputs: Path


def prepare(place: Path) -> Prepared:
    """Build the program and lay out the corpus."""
    compiler = shutil.which("clang++") or shutil.which("clang++-14")
    if compiler is None:
        raise MissingError("libFuzzer comes with clang, and clang++ is not on the PATH; install clang")
    if platform.machine() != "x86_64":
        raise MissingError(f"the program is built for x86-64, and this is {platform.machine()}")
    flags = [flag.replace("-fsanitize=", "-fsanitize=fuzzer,") for flag in SANITIZED]
    try:
        program = program_of(place, HERE / "fuzz.cpp", compiler, flags)
    except subprocess.CalledProcessError as error:
        raise MissingError(f"{compiler} lacks libFuzzer or its sanitizers ({error}); install libclang-rt") from error
    inputs = place / "inputs"
    with zipfile.ZipFile(CORPUS) as stored:
        stored.extractall(inputs)
    return Prepared(program, inputs)


def turn(prepared: Prepared, choose: random.Random) -> Counter[str]:
    """Some seconds of mutations; a finding is named by the input that led to it."""
    seed = choose.randrange(1, 2**31)
    command = [prepared.program, *LIMITS, f"-seed={seed}", f"-max_total_time={SECONDS}", prepared.inputs]
    done = subprocess.run(command, cwd=prepared.program.parent, capture_output=True, timeout=SECONDS + 120)
    said = done.stderr.decode(errors="replace")
    if done.returncode:
        found = sorted(prepared.program.parent.glob("*-[0-9a-f]*"), key=lambda path: path.stat().st_mtime)
        raise AssertionError(f"input {found[-1].read_bytes().hex() if found else 'unknown'}:\n{said[-3000:]}")
    names = {"calls": "number_of_executed_units", "inputs that reached new code": "new_units_added"}
    return Counter({name: int(re.search(rf"stat::{stat}: +(\d+)", said)[1]) for name, stat in names.items()})


def keep(prepared: Prepared) -> None:
    """Put the fewest inputs that reach all the code into corpus.zip."""
    fewest = prepared.inputs.with_name("fewest")
    fewest.mkdir()
    subprocess.run(
        [prepared.program, "-merge=1", *LIMITS[:3], fewest, prepared.inputs], check=True, capture_output=True
    )
    with zipfile.ZipFile(CORPUS, "w", zipfile.ZIP_DEFLATED) as stored:
        for path in sorted(fewest.iterdir()):
            stored.writestr(zipfile.ZipInfo(path.name), path.read_bytes())
