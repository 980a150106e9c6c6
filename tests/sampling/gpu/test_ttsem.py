"""The Triton kernels' intermediate code, executed by ttsem with every access, race and undefined value looked at."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


@pytest.mark.slow
def test_sanitized():
    """Every test of `sanitized.py`: no finding, the reference's tokens, and a fault that is seen."""
    if importlib.util.find_spec("ttsem") is None:
        pytest.skip("ttsem is not installed; pip install --no-deps --ignore-requires-python ttsem")
    command = [sys.executable, "-m", "ttsem.sanitize", "pytest", "-vv", "-x", "-p", "no:cacheprovider"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [*command, str(FOLDER / "sanitized.py")],
        cwd=FOLDER.parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    if "ImportError" in done.stderr and "sanitized.py::" not in done.stdout:
        pytest.skip(f"ttsem does not run here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "sanitized.py::test_a_fault_is_seen PASSED" in done.stdout
    assert "SKIPPED" not in done.stdout
