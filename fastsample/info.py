"""What this installation is and can do: for bug reports, benches and `fastsample info`."""

from __future__ import annotations

import platform
from typing import Any

from .version import __version__


def info() -> dict[str, Any]:
    """Versions, and for each backend None or the sentence that says why it cannot run here.

    returns: {"fastsample": str, "torch": str, "python": str, "machine": str, "threads": int,
              "instruction_set": str | None (of the CPU backend), "backends": {name: None | sentence}}
    """
    import torch  # here and not above: the package imports this module, and its --help does not wait for torch

    from .sampling.contract import Case
    from .sampling.dispatch import BACKENDS, load_backend

    objections: dict[str, str | None] = {}
    for name in BACKENDS:
        device = "cuda" if name in ("triton", "cuda") and torch.cuda.is_available() else "cpu"
        logits = torch.zeros(1, 2, device=device)
        objections[name] = load_backend(name).why_not(Case.of(logits, 1.0, 0, 1.0, 0.0, 0, None, 0, None))
    return {
        "fastsample": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "instruction_set": load_backend("cpu").instruction_set(),
        "backends": objections,
    }
