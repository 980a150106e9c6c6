"""fastsample info: for people and for programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from typer.testing import CliRunner

import fastsample
from fastsample.cli import main
from fastsample.info import outside
from fastsample.models import loops
from fastsample.tested import TESTED

ROOT = Path(__file__).parents[2]


def test_info_lists_versions_and_every_backend():
    """Every key of fastsample.info(), and for every backend "ready" or its own reason."""
    done = CliRunner().invoke(main, ["info"])
    assert done.exit_code == 0, done.output
    record = fastsample.info()
    for name, value in record.items():
        assert name.replace("_", " ") in done.output
        if not isinstance(value, dict | list):
            assert ("none" if value is None else str(value)) in done.output
    for name, version in record["packages"].items():
        assert any(line.split()[-2:] == [name, version] for line in done.output.splitlines())
    for name, objection in record["backends"].items():
        lines = done.output.partition("backends ")[2].splitlines()
        line = next(line for line in lines if f" {name} " in f" {line} ")
        assert line.endswith(objection or "ready")


def test_info_as_json_is_the_record_itself():
    """--json prints what the function returns."""
    assert json.loads(CliRunner().invoke(main, ["info", "--json"]).stdout) == fastsample.info()


def test_info_of_a_model_says_how_it_is_served(tiny_folder):
    """The fastest engine needs no reason, in words and in JSON."""
    done = CliRunner().invoke(main, ["info", "--model", str(tiny_folder)])
    assert done.exit_code == 0, done.output
    assert "shared-prefix" in done.output
    assert "the fastest" in done.output
    record = json.loads(CliRunner().invoke(main, ["info", "--model", str(tiny_folder), "--json"]).stdout)["model"]
    assert record == {"name": str(tiny_folder), "engine": "shared-prefix", "engine_reason": None}


def test_info_of_a_model_names_what_transformers_no_longer_has(tiny_folder, monkeypatch):
    """A name that is looked for inside of transformers and is gone costs something, and nobody would notice it."""
    monkeypatch.setattr(loops, "LOOPS", {"sample": "_no_such_method"})
    done = CliRunner().invoke(main, ["info", "--model", str(tiny_folder)])
    assert "transformers has no _no_such_method any more" in done.output


def test_the_tested_range_is_that_of_the_lock_and_of_pyproject():
    """fastsample/tested.py is made by `make lock`; a change of one without the other would tell a lie."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import lock
    finally:
        sys.path.remove(str(ROOT / "tools"))
    assert lock.tested_ranges() == TESTED


def test_versions_outside_of_the_range_are_told():
    """Older, newer, at both ends, not installed, and with a build's own suffix."""
    oldest, newest = TESTED["torch"]
    assert outside("torch", oldest) is outside("torch", f"{newest}+cpu") is outside("torch", None) is None
    assert "older than the oldest that is supported" in outside("torch", "1.13.1")
    assert "newer than the newest that was tested" in outside("torch", "99.0")
