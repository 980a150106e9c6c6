"""Many machines by Ray, two actors here: the run of one machine, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fastsample.cli import main
from fastsample.evaluation.dataset import Item
from fastsample.evaluation.evaluate import evaluate
from fastsample.strategies.question import Question, Settings

ray = pytest.importorskip("ray", reason="ray is not installed; `make engines` installs it and runs this")

from fastsample.solving.ray_pool import RayPool

SETTINGS = Settings((0.0, 0.7, 1.0), 4, "ahead:k=3", max_new_tokens=8, seed=3)
KILLS = 10


def loader(folder, pids, seconds=0.0):
    """What an actor loads: the tiny model, slowed down, with a file that tells of its process."""

    def load():
        from fastsample import models

        model, tokenizer = models.load(str(folder))
        model.model.register_forward_pre_hook(lambda *_: time.sleep(seconds))
        (Path(pids) / str(os.getpid())).touch()
        return model, tokenizer

    return load


def items(count):
    return [Item(f"q{n}", f"{n} and what is 2 + 2?", "4") for n in range(count)]


def told(folder):
    """Samples and results of a run, without what depends on the batch and the clock."""
    samples = sorted((folder / "samples.jsonl").read_text().splitlines())
    finished = [line for line in samples if json.loads(line)["finish"] != "cancelled"]
    results = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    names = ("id", "answer", "status", "votes", "counted", "is_right")
    return finished, sorted([r[name] for name in names] for r in results)


@pytest.fixture
def alone(tiny_folder, tmp_path):
    """The run of this process alone, every sample kept."""

    def run(count, settings):
        from fastsample import models

        model, tokenizer = models.load(str(tiny_folder))
        evaluate(model, tokenizer, items(count), tmp_path / "alone", settings=settings, named={})
        return told(tmp_path / "alone")

    return run


def test_a_run_of_two_actors_is_the_run_of_one_machine(alone, tiny_folder, tmp_path):
    """Whole votes: every sample, answer and vote; the costs add up; both actors had a share."""
    settings = Settings((0.0, 0.7, 1.0), 4, max_new_tokens=8, seed=3)
    (tmp_path / "pids").mkdir()
    with RayPool(loader(tiny_folder, tmp_path / "pids"), actors=2, slots=18) as pool:
        found = evaluate(None, None, items(12), tmp_path / "run", settings=settings, named={}, slots=64, pool=pool)
        assert pool.steps > 0
        with pytest.raises(ValueError, match="extractor"):
            list(pool.solve([Question("x", "q")], settings=settings, extractor="nonsense"))
    assert told(tmp_path / "run") == alone(12, settings)
    assert (found.done, found.failed) == (12, 0)
    assert len(list((tmp_path / "pids").iterdir())) == 2
    assert json.loads((tmp_path / "run/config.json").read_text()) == json.loads(
        (tmp_path / "alone/config.json").read_text()
    )
    assert not ray.is_initialized()


@pytest.mark.slow
def test_actors_that_are_killed_cost_time_alone(alone, tiny_folder, tmp_path):
    """Ten kills at any moment of a run, by SIGKILL: nothing lost, nothing twice, every vote as without."""
    pids, killed, is_over = tmp_path / "pids", [], threading.Event()
    pids.mkdir()

    def kill():
        while len(killed) < KILLS and not is_over.wait(0.3 + 0.1 * len(killed)):
            alive = [p for p in pids.iterdir() if int(p.name) not in killed]
            if alive:
                killed.append(int(alive[0].name))
                os.kill(killed[-1], signal.SIGKILL)

    with RayPool(loader(tiny_folder, pids, 0.25), actors=2, slots=18) as pool:
        thread = threading.Thread(target=kill)
        thread.start()
        try:
            evaluate(None, None, items(60), tmp_path / "run", settings=SETTINGS, named={}, slots=64, pool=pool)
        finally:
            is_over.set()
            thread.join()
    assert len(killed) == KILLS
    finished, results = told(tmp_path / "run")
    assert len(results) == 60
    assert results == alone(60, SETTINGS)[1]
    names = [(json.loads(line)["question"], json.loads(line)["number"]) for line in finished]
    assert len(set(names)) == len(names)


def test_as_a_command(tiny_folder, tmp_path):
    """--ray local, and a run that is gone on with in this process has nothing left to do."""
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(json.dumps({"question": i.question, "answer": "4"}) + "\n" for i in items(4)))
    words = ["evaluate", str(questions), "--out", str(tmp_path / "run"), "--model", str(tiny_folder), "--samples", "2"]
    words += ["--max-new-tokens", "8"]
    found = CliRunner().invoke(main, [*words, "--ray", "local", "--actors", "2"])
    assert found.exit_code == 0, found.output
    assert "4 of 4 questions answered" in found.output
    again = CliRunner().invoke(main, [*words, "--resume"])
    assert again.exit_code == 0, again.output
    assert "4 of 4 questions answered" in again.output


def test_bad_pools(tmp_path):
    """A cluster that is not there, a model that no actor can load, no actors: one sentence each."""
    with pytest.raises(ValueError, match=r"no Ray cluster at '127.0.0.1:1'"):
        RayPool(lambda: None, address="127.0.0.1:1")
    with pytest.raises(ValueError, match="actors must be at least 1, got 0"):
        RayPool(lambda: None, actors=0)

    def load():
        raise ValueError("there is no such model")

    with pytest.raises(ValueError, match=r"an actor cannot begin: .*no such model"):
        RayPool(load, actors=1)
    found = CliRunner().invoke(main, ["evaluate", "q", "--out", "x", "--ray", "local", "--base-url", "http://a:1"])
    assert found.exit_code == 2
    assert "--ray spreads models of ours" in found.output


def test_a_machine_that_is_too_busy_to_start_one(monkeypatch):
    """Ray gives up after half a minute by a bare exception: it is tried again, and then told in a sentence."""
    calls = []

    def init(**_):
        calls.append(1)
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ValueError, match="no Ray cluster at 'local': The current node timed out"):
        RayPool(lambda: None)
    assert len(calls) == 3
