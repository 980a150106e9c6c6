"""The source archive alone makes a wheel, and what is in the wheel draws the contract's vectors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("csrc", "tests", "bench", "docs", "examples", "tools", "fastsample")
MADE = {".so", ".pyc", ".pyd"}
BUILD = "import sys; from setuptools import build_meta; print(build_meta.{}(sys.argv[1]))"
# Where its CUDA compiler lies apart from g++, it is not found, which saves a minute; it is no part of what is tested.
PLAIN = {k: v for k, v in os.environ.items() if k not in ("CUDA_HOME", "PYTHONPATH")}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("g++") is None, reason="a wheel is built by a C++ compiler, g++, and there is none"
    ),
]


def run(*command, cwd, **variables):
    done = subprocess.run(command, cwd=cwd, env=PLAIN | variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The source archive, unpacked far from this folder."""
    place = tmp_path_factory.mktemp("source")
    copy = place / "copy"  # setuptools writes beside what it packs
    shutil.copytree(ROOT, copy, ignore=lambda folder, names: [n for n in names if n.startswith((".venv", "build"))])
    name = run(sys.executable, "-c", BUILD.format("build_sdist"), str(place), cwd=copy)
    with tarfile.open(place / name) as archive:
        archive.extractall(place, filter="data")
    shutil.rmtree(copy)
    return place / name.removesuffix(".tar.gz")


def test_the_source_archive_is_whole(source):
    """Whatever is here of the folders that a reader, a builder or a tester needs."""
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in MADE and "__pycache__" not in path.parts:
                assert (source / path.relative_to(ROOT)).is_file(), path
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md", "Makefile", "constraints.txt"):
        assert (source / name).is_file(), name


def test_its_wheel_draws(source, tmp_path):
    """Every vector of the contract, by the compiled code of a wheel that was made of the archive alone."""
    compilers = os.pathsep.join({str(Path(shutil.which(name)).parent) for name in ("g++", "gcc", "sh")})
    name = run(sys.executable, "-c", BUILD.format("build_wheel"), str(tmp_path), cwd=source, PATH=compilers)
    installed = tmp_path / "installed"
    with zipfile.ZipFile(tmp_path / name) as wheel:
        wheel.extractall(installed)
    where = run(
        sys.executable, "-c", "import fastsample; print(fastsample.__file__)", cwd=tmp_path, PYTHONPATH=str(installed)
    )
    assert Path(where).is_relative_to(installed)
    assert "_cpu" in [path.name.split(".")[0] for path in installed.rglob("*.so")]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(source / "tests/sampling/test_vectors.py")]
    summary = run(*command, cwd=tmp_path, PYTHONPATH=str(installed))
    assert " passed" in summary
    assert " failed" not in summary


def test_an_editable_install_is_a_folder_on_the_path(tmp_path):
    """Type checkers and editors read a folder, and no hook that finds modules while Python runs."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "fastsample", tree / "fastsample", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    (tree / "setup.py").write_text("from setuptools import setup; setup()")
    name = run(sys.executable, "-c", BUILD.format("build_editable"), str(tmp_path), cwd=tree)
    with zipfile.ZipFile(tmp_path / name) as wheel:
        (path,) = [entry for entry in wheel.namelist() if entry.endswith((".pth", ".py"))]
        assert wheel.read(path).decode().strip() == str(tree)
    assert (tree / "fastsample" / "py.typed").is_file()
