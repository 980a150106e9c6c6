"""`pip install fastsample` alone, without the extras: the command starts, and says what a command of its own needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = ("transformers", "accelerate", "safetensors", "huggingface_hub", "gguf", "math_verify", "matplotlib")
WITHOUT = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from fastsample.cli import main
main(sys.argv[1:])
"""


def run(*args):
    return subprocess.run([sys.executable, "-c", WITHOUT, *args], capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 reads no TOML")
def test_what_the_command_needs_is_required():
    """Everything that fastsample.cli imports at the top comes with the package itself."""
    import tomllib

    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {"typer", "rich", "platformdirs"} <= {name.partition(">")[0] for name in needed}


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["solve", "--help"], ["cache"], ["info"]])
def test_the_command_starts(args):
    """Help, the version, the cache and what the machine can do need no model."""
    done = run(*args)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("args", [["solve", "1 + 1?"], ["plan"]])
def test_a_command_that_needs_more_says_so(args):
    """One sentence with what to install, and exit code 2."""
    done = run(*args)
    assert done.returncode == 2, done.stderr
    assert "pip install" in done.stderr
    assert "Traceback" not in done.stderr
