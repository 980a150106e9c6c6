"""fastsample cache: what was unpacked is listed with its size, and deleted when asked."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from fastsample import models
from fastsample.cli import main


def run(*args):
    return CliRunner().invoke(main, ["cache", *map(str, args)])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A cache of two models, and one that a killed process left half unpacked."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "fastsample" / "models"
    for name, size in (
        ("small-aa", 1_000_000),
        ("large-bb", 3_000_000),
        ("large-bb.part-x", 5),
    ):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_bytes(b"x" * size)
    return folder


def test_it_lists_what_there_is(place):
    """The largest first, with sizes, and the folder at the end."""
    done = run()
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert [line.split()[2] for line in lines[:2]] == ["large-bb", "small-aa"]
    assert lines[0].split()[0] == "3"
    assert str(place) in "".join(lines[-2:])
    record = json.loads(run("--json").stdout)
    assert [m["bytes"] for m in record["models"]] == [3_000_000, 1_000_000, 5]
    assert not any(m["removed"] for m in record["models"])


def test_it_clears_all_or_one(place):
    """By the beginning of a name; half unpacked ones too."""
    done = run("--clear", "--name", "large")
    assert done.exit_code == 0, done.output
    assert [path.name for path in place.iterdir() if path.is_dir()] == ["small-aa"]
    assert run("--clear").exit_code == 0
    assert not [path for path in place.iterdir() if path.is_dir()]
    assert "0 MB" in run().output


def test_what_is_being_unpacked_is_left(place):
    """Another process holds its lock: exit code 1, and the other models are gone."""
    with FileLock(f"{place / 'large-bb'}.lock"):
        code = "from fastsample.cli import main; main(['cache', '--clear'])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "in use, left" in done.stdout
    assert (place / "large-bb").is_dir()
    assert not (place / "small-aa").exists()


def test_a_name_that_none_begins_with(place):
    """Nothing is deleted, and the names that there are are told."""
    done = run("--clear", "--name", "huge")
    assert done.exit_code == 2
    assert "no unpacked model begins with 'huge'; there are large-bb, " in done.output
    assert len(list(place.iterdir())) == 3


def test_a_loaded_model_is_in_the_list(tiny_gguf, tmp_path, monkeypatch):
    """What `load` unpacks is what `cache` finds; cleared, it is unpacked again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        models.load(str(tiny_gguf), progress=lambda line: None)
        assert tiny_gguf.stem in run().output
        assert run("--clear").exit_code == 0
