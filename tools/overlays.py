"""An overlay: a folder with one release of transformers and those of its requirements that the environment lacks.

In front of the environment by PYTHONPATH it replaces these packages and leaves the rest, so that torch is there once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from requirements import ROOT, canonical

CACHE = ROOT / ".compat"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def available() -> list[str]:
    """The releases of transformers that the package index has for this Python, the newest first."""
    said = _output([*PIP, "index", "versions", "transformers"])
    [line] = [line for line in said.splitlines() if line.startswith("Available versions:")]
    return line.removeprefix("Available versions:").replace(" ", "").split(",")


def overlay(version: str, of_its_time: Sequence[str]) -> Path:
    """The folder of this release, made where there is none or where the environment has changed since.

    of_its_time: name==version of requirements, taken where the environment's own version will not do
    """
    folder, stamp = CACHE / version, "made_over.txt"
    made_over = "\n".join([*_environment(), *of_its_time])
    if not (folder / stamp).exists() or (folder / stamp).read_text() != made_over:
        building = CACHE / f"{version}.new"
        for old in (folder, building):
            shutil.rmtree(old, ignore_errors=True)
        held = packages(version, of_its_time)
        _output([*PIP, "install", "--quiet", "--no-deps", "--target", str(building), *held])
        (building / stamp).write_text(made_over)
        building.rename(folder)
    _verify(folder, version)
    return folder


def packages(version: str, of_its_time: Sequence[str]) -> list[str]:
    """What an overlay holds, as name==version: what pip would install here if asked for this release."""
    wanted = f"transformers=={version}"
    replaced = {one.split("==")[0] for one in _installed_for(wanted)}
    held = _installed_for(wanted, *(one for one in of_its_time if one.split("==")[0] in replaced))
    return held or [wanted]  # nothing to install where the environment has this very release


def _installed_for(*wanted: str) -> list[str]:
    """What pip would install for these requirements, as name==version."""
    report = json.loads(_output([*PIP, "install", "--quiet", "--dry-run", "--report", "-", *wanted]))
    found = [(one["metadata"]["name"], one["metadata"]["version"]) for one in report["install"]]
    return [f"{canonical(name)}=={version}" for name, version in found]


def beside(folder: Path) -> list[str]:
    """What the overlay holds beside transformers, as `name version`."""
    there = [f"{one.metadata['Name']} {one.version}" for one in metadata.distributions(path=[str(folder)])]
    return sorted(one for one in there if not one.startswith("transformers "))


def over(folder: Path) -> dict[str, str]:
    """The variables of a process that runs with the overlay, on one thread."""
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _verify(folder: Path, version: str) -> None:
    """The overlay must be what is imported: a release that pip put there and Python does not find tests another."""
    asked = [sys.executable, "-c", "import transformers; print(transformers.__version__, transformers.__file__)"]
    got, file = _output(asked, over(folder)).split()
    if got != version or not Path(file).is_relative_to(folder):
        raise SystemExit(f"the overlay of transformers {version} must be what is imported, got {got} of {file}")


def _environment() -> list[str]:
    """Python and every installed package: what an overlay was resolved against."""
    names = sorted({f"{one.metadata['Name']}=={one.version}" for one in metadata.distributions()})
    return [f"Python {sys.version.split()[0]}", *names]


def _output(command: list[str], environment: dict[str, str] | None = None) -> str:
    """What a command prints; where it fails, its own words end the program."""
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} must succeed, and said:\n{done.stderr.strip()}")
    return done.stdout
