"""Shards of a question set on many machines, and the one run that they make."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from fastsample.cli import main
from fastsample.evaluation.dataset import Item, RunError
from fastsample.evaluation.report import report_of
from fastsample.evaluation.shards import Shard, merge, shard_of


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def folders(tiny_folder, tmp_path_factory):
    """(question file, the whole run, the runs of its three shards)"""
    place = tmp_path_factory.mktemp("shards")
    questions = place / "q.jsonl"
    questions.write_text(
        "".join(json.dumps({"question": f"{n} + 1?", "answer": "4", "id": f"q{n}"}) + "\n" for n in range(20))
    )
    usual = ("--model", tiny_folder, "--samples", "2", "--temperatures", "0,0.8", "--max-new-tokens", "8")
    whole = run("evaluate", questions, "--out", place / "whole", *usual)
    assert whole.exit_code == 0, whole.output
    for index in range(3):
        found = run("evaluate", questions, "--out", place / f"part{index}", "--shard", f"{index}/3", *usual)
        assert found.exit_code == 0, found.output
    return questions, place / "whole", [place / f"part{index}" for index in range(3)]


def lines(folder, name):
    return sorted((folder / name).read_text().splitlines())


def test_every_question_is_in_one_shard():
    """Whatever their number; and none is empty for long."""
    items = [Item(f"id {n}", "?") for n in range(200)]
    for of in (1, 2, 7):
        parts = [Shard(index, of).of_items(items) for index in range(of)]
        assert sorted(i.id for part in parts for i in part) == sorted(i.id for i in items)
        assert min(map(len, parts)) > 100 / of


def test_the_merged_run_is_the_whole_run(folders, tmp_path):
    """Samples and answers equal those of one machine, and the report too; the shards are left as they are."""
    _, whole, parts = folders
    before = [lines(part, "samples.jsonl") for part in parts]
    found = run("merge", tmp_path / "run", *parts)
    assert found.exit_code == 0, found.output
    assert "20 of 20 questions answered, 60 samples;" in found.output
    assert lines(tmp_path / "run", "samples.jsonl") == lines(whole, "samples.jsonl")
    assert lines(tmp_path / "run", "questions.jsonl") == lines(whole, "questions.jsonl")
    merged, one = report_of(tmp_path / "run"), report_of(whole)
    assert [row.accuracy for row in merged.rows] == [row.accuracy for row in one.rows]
    assert json.loads((tmp_path / "run/config.json").read_text()) == json.loads((whole / "config.json").read_text())
    assert [lines(part, "samples.jsonl") for part in parts] == before


def test_doubles_are_kept_once(folders, tmp_path):
    """A shard that was run twice, or by two machines at once."""
    _, whole, parts = folders
    found = merge(tmp_path / "run", [*parts, parts[1]])
    assert found.doubles > 0
    assert lines(tmp_path / "run", "samples.jsonl") == lines(whole, "samples.jsonl")
    assert len(lines(tmp_path / "run", "results.jsonl")) == 20


def test_what_a_shard_has_not_answered_is_asked_by_resume(folders, tmp_path, tiny_folder):
    """A shard that was killed: the merged run is gone on with."""
    questions, whole, parts = folders
    killed = tmp_path / "killed"
    killed.mkdir()
    for path in parts[0].iterdir():
        (killed / path.name).write_bytes(path.read_bytes())
    results = (killed / "results.jsonl").read_text().splitlines(keepends=True)
    (killed / "results.jsonl").write_text("".join(results[:2]))
    found = merge(tmp_path / "run", [killed, *parts[1:]])
    assert found.open == len(results) - 2 > 0
    usual = ("--model", tiny_folder, "--samples", "2", "--temperatures", "0,0.8", "--max-new-tokens", "8")
    again = run("evaluate", questions, "--out", tmp_path / "run", "--resume", *usual)
    assert "20 of 20 questions answered, 0 failed" in again.output
    assert lines(tmp_path / "run", "samples.jsonl") == lines(whole, "samples.jsonl")


def test_what_does_not_belong_together(folders, tmp_path):
    """One sentence each; nothing is written."""
    _, whole, parts = folders
    out = tmp_path / "run"
    with pytest.raises(RunError, match=r"shard 2 is missing \(1 of them\)"):
        merge(out, parts[:2])
    with pytest.raises(RunError, match="is no run of a shard"):
        merge(out, [whole])
    with pytest.raises(RunError, match="holds no run"):
        merge(out, [tmp_path])
    other = tmp_path / "other"
    other.mkdir()
    for path in parts[0].iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"seed": 9}))
    with pytest.raises(RunError, match=r"seed of .*part1 is another one"):
        merge(out, [other, *parts[1:]])
    (other / "config.json").write_text(json.dumps(config | {"shard": "0/4"}))
    with pytest.raises(RunError, match="shards of 3 and of 4"):
        merge(out, [other, *parts[1:]])
    assert not out.exists()
    for text in ("3/3", "1", "a/b", "-1/2", "0/0"):
        with pytest.raises(RunError, match="a shard must be I/N"):
            shard_of(text)
    with pytest.raises(RunError, match="already holds this run"):
        merge(merge_into(out, parts), parts)


def merge_into(out, parts):
    merge(out, parts)
    return out
