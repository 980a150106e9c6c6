"""fastsample info: for people and for programs."""

from __future__ import annotations

import json

from typer.testing import CliRunner

import fastsample
from fastsample.cli import main


def test_info_lists_versions_and_every_backend():
    """Every key of fastsample.info(), and for every backend "ready" or its own reason."""
    done = CliRunner().invoke(main, ["info"])
    assert done.exit_code == 0, done.output
    record = fastsample.info()
    for name, value in record.items():
        assert name.replace("_", " ") in done.output
        if not isinstance(value, dict):
            assert ("none" if value is None else str(value)) in done.output
    for name, objection in record["backends"].items():
        line = next(line for line in done.output.splitlines() if f" {name} " in f" {line} ")
        assert line.endswith(objection or "ready")


def test_info_as_json_is_the_record_itself():
    """--json prints what the function returns."""
    assert json.loads(CliRunner().invoke(main, ["info", "--json"]).stdout) == fastsample.info()
