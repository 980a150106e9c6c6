"""The Triton kernels' Python source, run by Triton's interpreter in a process of its own: it may corrupt the heap."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


def test_interpreted():
    """Every test of `interpreted.py`: equality with the contract's vectors and with the reference."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-W",
        "ignore",
        "-x",
        "-p",
        "no:cacheprovider",
        str(FOLDER / "interpreted.py"),
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=FOLDER.parents[2], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout
