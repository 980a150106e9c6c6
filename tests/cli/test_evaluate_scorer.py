"""fastsample evaluate --scorer: every sample scored, the best one's answer taken, scores kept and gone on with."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from fastsample.cli import main

OPTIONS = ["--temperatures", "1", "--samples", "20", "--seed", "1"]


@pytest.fixture
def asked(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n} + 2?", "answer": "5", "id": n}) + "\n" for n in range(3)))
    return path


def evaluate(*args):
    return CliRunner().invoke(main, ["evaluate", *map(str, args)])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def summary(path):
    return {r["id"]: (r["answer"], r["votes"], r["tokens"]) for r in lines(path)}


def test_the_best_score_decides_every_question(tiny_folder, asked, tmp_path):
    """Most samples say 4, the key says 5: the vote is wrong throughout, the scorer's choice right throughout."""
    folders = tmp_path / "vote", tmp_path / "verified"
    for folder, more in zip(folders, ((), ("--scorer", "exact:5"))):
        done = evaluate(asked, "-o", folder, "-m", tiny_folder, *OPTIONS, *more)
        assert done.exit_code == 0, done.output
    vote, verified = (lines(folder / "results.jsonl") for folder in folders)
    assert [r["answer"] for r in vote] == ["4"] * 3
    assert [r["answer"] for r in verified] == ["5"] * 3
    assert all(r["is_right"] and "the best score" in r["reason"] for r in verified)
    assert {s["score"] for s in lines(folders[0] / "samples.jsonl")} == {None}
    assert all(s["score"] == (s["answer"] == "5") for s in lines(folders[1] / "samples.jsonl"))


def test_a_resumed_run_keeps_its_scores_and_its_scorer(tiny_folder, asked, tmp_path):
    """Cut off after half of its samples: gone on with to the same answers; another scorer is another run."""
    options = (asked, "-o", tmp_path / "run", "-m", tiny_folder, *OPTIONS)
    evaluate(*options, "--scorer", "exact:5")
    samples, results = tmp_path / "run" / "samples.jsonl", tmp_path / "run" / "results.jsonl"
    whole = summary(results)
    samples.write_text("".join(samples.read_text().splitlines(keepends=True)[:30]))
    results.write_text("")
    refused = evaluate(*options, "--scorer", "mean-logprob", "--resume")
    assert refused.exit_code == 2
    assert "scorer: 'exact:5' in the run, 'mean-logprob' now" in refused.stderr
    done = evaluate(*options, "--scorer", "exact:5", "--resume")
    assert done.exit_code == 0, done.output
    assert summary(results) == whole


def test_a_bad_scorer_is_refused_before_anything_is_written(tiny_folder, asked, tmp_path):
    """One sentence, exit code 2, and no folder."""
    done = evaluate(asked, "-o", tmp_path / "run", "-m", tiny_folder, "--scorer", "nope")
    assert done.exit_code == 2
    assert "a scorer is mean-logprob, exact:KEY" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_scorer_that_fails_costs_its_question_alone(tiny_folder, asked, tmp_path, monkeypatch):
    """What it raises is told with the question's id; the other questions are answered."""
    (tmp_path / "scores.py").write_text("def score(question, answer, text):\n    return 1 / int(question[0])\n")
    monkeypatch.syspath_prepend(tmp_path)
    done = evaluate(asked, "-o", tmp_path / "run", "-m", tiny_folder, *OPTIONS, "--scorer", "scores:score")
    assert done.exit_code == 1
    assert "0: ZeroDivisionError: division by zero" in done.stderr
    assert [r["id"] for r in lines(tmp_path / "run" / "results.jsonl")] == ["1", "2"]
