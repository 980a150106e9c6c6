"""What this installation is and can do: for bug reports, benches and `fastsample info`."""

from __future__ import annotations

import platform
import re
from typing import Any

from .tested import TESTED
from .version import __version__

PACKAGES = ("torch", "numpy", "transformers", "tokenizers", "triton")


def info() -> dict[str, Any]:
    """Versions, what lies outside of the tested range, and each backend with the reason why it cannot run here.

    returns: {"fastsample": str, "python": str, "machine": str, "threads": int,
              "packages": {name: version | None, where it is not installed},
              "untested": [one sentence for each package outside of the tested range],
              "compiler": str | None, "instruction_set": str | None (both of the CPU backend),
              "backends": {name: None | sentence}}
    """
    import torch  # here and not above: the package imports this module, and its --help does not wait for torch

    from .sampling.backends import cpu
    from .sampling.contract import Case
    from .sampling.dispatch import BACKENDS, load_backend

    objections: dict[str, str | None] = {}
    for name in BACKENDS:
        device = "cuda" if name in ("triton", "cuda") and torch.cuda.is_available() else "cpu"
        logits = torch.zeros(1, 2, device=device)
        objections[name] = load_backend(name).why_not(Case.of(logits, 1.0, 0, 1.0, 0.0, 0, None, 0, None))
    packages = {name: version_of(name) for name in PACKAGES}
    return {
        "fastsample": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "packages": packages,
        "untested": [sentence for name in TESTED if (sentence := outside(name, packages[name]))],
        "compiler": cpu.compiler(),
        "instruction_set": cpu.instruction_set(),
        "backends": objections,
    }


def version_of(package: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    from importlib import metadata  # here: it takes longer to import than all of this package

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def outside(package: str, version: str | None) -> str | None:
    """One sentence where a version lies outside of what the tests passed with; None where it does not."""
    if version is None:
        return None
    oldest, newest = TESTED[package]
    if _parts(version) < _parts(oldest):
        return f"{package} {version} is older than the oldest that is supported, {oldest}; update it"
    if _parts(version) > _parts(newest):
        return f"{package} {version} is newer than the newest that was tested, {newest}; it is used all the same"
    return None


def _parts(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3]]
