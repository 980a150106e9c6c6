"""What stops a run is named as what it is: an engine that fails is no full disk."""

from __future__ import annotations

import errno

import pytest
from typer.testing import CliRunner

from fastsample.cli import main
from fastsample.engines.local.engine import LocalEngine
from fastsample.evaluation.journal import Journal


@pytest.fixture
def run(tiny_folder, tmp_path):
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question": "2 + 2?", "answer": "4"}\n')
    options = ["--temperatures", "1", "--samples", "2", "--max-new-tokens", "8", "-m", str(tiny_folder)]
    return lambda *more: CliRunner().invoke(
        main, ["evaluate", str(questions), "-o", str(tmp_path / "run"), *options, *more]
    )


def fails(error):
    def raise_it(*_):
        raise error

    return raise_it


def test_an_engine_s_system_error_is_not_called_a_full_disk(run, monkeypatch):
    """It is said as it is, and the run can be gone on with."""
    with monkeypatch.context() as patch:
        patch.setattr(LocalEngine, "step", fails(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")))
        done = run()
    assert done.exit_code == 1
    assert "cannot write" not in done.output
    assert "stopped by ConnectionResetError: [Errno 104] Connection reset by peer; nothing written" in done.output
    assert run("--resume").exit_code == 0


def test_a_full_disk_is(run, monkeypatch):
    """The twin: the same command where a line cannot be written."""
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", fails(OSError(errno.ENOSPC, "No space left on device")))
        done = run()
    assert done.exit_code == 1
    assert "cannot write to" in done.output
    assert "No space left on device" in done.output
    assert run("--resume").exit_code == 0
