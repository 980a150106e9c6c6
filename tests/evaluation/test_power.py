"""What is forced to the disk, and when: what a machine that loses its power may lose of a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_runs import CONFIG, ITEMS, written

from fastsample.evaluation import run_folder
from fastsample.evaluation.run_folder import open_run

PAGE = " ".join((Path(__file__).parents[2] / "docs" / "reliability.md").read_text().split())


@pytest.fixture
def events(monkeypatch):
    """What is forced to the disk and what is renamed, in order, by the last part of its name."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("the names behind file descriptors are read from /proc")
    seen, fsync = [], os.fsync

    def forced(number):
        fsync(number)
        seen.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)

    def renaming(call):
        def renamed(source, target):
            call(source, target)
            seen.append(f"-> {Path(target).name}")

        return renamed

    monkeypatch.setattr(os, "fsync", forced)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, renaming(getattr(os, name)))
    return seen


def test_a_run_has_its_name_when_all_of_it_is_on_the_disk(tmp_path, events):
    """Its files, then its folder, then its name, then the folder that the name is in."""
    open_run(tmp_path / "run", CONFIG, ITEMS)
    aside = events[3]
    assert aside.startswith(".fastsample-")
    begun = ["questions.jsonl", "config.json.part", "-> config.json", aside, "-> run", tmp_path.name]
    assert events == begun
    assert "before the folder gets its name" in PAGE


def test_lines_are_forced_in_batches_samples_first(tmp_path, events, monkeypatch):
    """After 256 lines, after two seconds, and when the run is left; never results whose samples are not."""
    now = 0.0
    monkeypatch.setattr(run_folder, "monotonic", lambda: now)
    batch = ["samples.jsonl", "results.jsonl", "sessions.jsonl"]
    with open_run(tmp_path / "run", CONFIG, ITEMS) as run:
        run._since = now
        del events[:]
        for number in range(255):
            run.add_sample("p", written(number))
        assert events == []
        run.add_sample("p", written(255))
        assert events == batch
        now = 1.9
        run.add_sample("p", written(256))
        assert events == batch
        now = 2.1
        run.add_costs(1, 1, 1, is_last=True)
        assert events == 2 * batch
    assert events == 3 * batch
    assert "after 256 lines or 2 seconds" in PAGE
