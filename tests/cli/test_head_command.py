"""fastsample labels and fastsample head: from a run to a head and on to a search, and a sentence for what is wrong."""

from __future__ import annotations

import json

import bigram
import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from fastsample.cli import main

MIXED = {
    bigram.ASSISTANT: {"4": 0.4, "5": 0.4, "a": 0.2},
    "a": {"Ċ": 1.0},
    "Ċ": {"4": 0.5, "5": 0.5},
    "4": {bigram.END: 1.0},
    "5": {bigram.END: 1.0},
}


def call(*words):
    """(exit code, what was said)."""
    said = CliRunner().invoke(main, list(map(str, words)))
    assert said.exception is None or isinstance(said.exception, SystemExit), said.exception
    return said.exit_code, said.output


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, questions, and a run of twelve questions."""
    place = tmp_path_factory.mktemp("heads")
    bigram.save_folder(place / "model", MIXED)
    bigram.save_folder(place / "other", MIXED)
    other = AutoModelForCausalLM.from_pretrained(place / "other")
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.add_(0.25)
    other.save_pretrained(place / "other")
    for name, first in (("q", 0), ("more", 20)):
        lines = [{"question": f"{n}?", "answer": "4", "id": f"{n}"} for n in range(first, first + 12)]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        options = ["--temperatures", "1", "--samples", 6, "--max-new-tokens", 6, "--extractor", r"regex:(\d)$"]
        code, said = call(
            "evaluate", place / f"{name}.jsonl", "-o", place / f"{name}.run", "-m", place / "model", *options
        )
        assert code == 0, said
    return place


@pytest.fixture(scope="module")
def learnt(place):
    """Labels of the two runs, and a head of the first."""
    for name in ("q", "more"):
        code, said = call("labels", place / f"{name}.run", "-o", place / f"{name}.labels", "--until", r"\n")
        assert code == 0, said
        assert "legs of 72 texts" in said
    code, said = call("head", place / "q.labels", "-o", place / "h", "-m", place / "model", "--test",
                      place / "more.labels", "--json")  # fmt: skip
    assert code == 0, said
    return json.loads(said.splitlines()[-1])


def test_a_head_is_learnt_and_used(place, learnt):
    """The last letter says all: held out and on other questions every pair is told; then it chooses in a search."""
    assert (learnt["questions"], learnt["layer"], learnt["labels"][0]["kind"]) == (12, 1, "outcome")
    assert learnt["held_out_auc"][0] > 0.9
    assert learnt["test_auc"][0] > 0.9
    options = ["-m", place / "model", "--strategy", "best:n=16", "--max-new-tokens", 6, "--extractor", r"regex:(\d)$"]
    code, said = call("solve", "99?", *options, "--scorer", f"head:{place}/h", "--json")
    found = json.loads(said.splitlines()[-1])
    assert (code, found["answer"]) == (0, "4")
    code, said = call("evaluate", place / "q.jsonl", "-o", place / "by.run", *options, "--scorer", f"head:{place}/h")
    assert code == 0, said
    config = json.loads((place / "by.run/config.json").read_text())
    assert config["scorer"].startswith("head:h@")


def test_what_is_said_to_people(place, learnt):
    """The figures with their intervals, and how to use the file."""
    code, said = call("head", place / "q.labels", "-o", place / "h2", "-m", place / "model", "--layers", "1")
    text = " ".join(said.split())
    assert code == 0
    assert "on questions left out" in text
    assert "their mean log-probability has" in text
    assert f"--scorer head:{place}/h2" in text


def test_rollouts_are_labelled(place):
    """A run of rollouts says so in its labels."""
    options = ["-m", place / "model", "--max-new-tokens", 6, "--extractor", r"regex:(\d)$"]
    strategy = r"rollouts:samples=2,n=3,until=\n"
    assert call("evaluate", place / "q.jsonl", "-o", place / "r.run", *options, "--strategy", strategy)[0] == 0
    assert call("labels", place / "r.run", "-o", place / "r.labels", "--until", r"\n")[0] == 0
    first, *lines = (place / "r.labels").read_text().splitlines()
    assert json.loads(first)["kind"] == "rollouts"
    assert any(0 < label < 1 for line in lines for label in json.loads(line)["labels"])


LABELS, HEAD, SOLVE = "labels {p}/q.run", "head {p}/q.labels -m {p}/model", "solve 1? --strategy best:n=2"
MISTAKES = {
    "labels {p}/gone -o {p}/x": "holds no run",
    f"{LABELS} -o {{p}}/no/x": "cannot be written: No such file",
    f"{LABELS} -o {{p}}/x --verifier signal:entropy": "a verifier judges whole texts",
    f"{LABELS} -o {{p}}/x --verifier nobody": "a scorer is",
    "head {p}/q.jsonl -o {p}/x -m {p}/model": "it is no file of labels",
    "head {p}/gone -o {p}/x -m {p}/model": "cannot be read: No such file",
    f"{HEAD} -o {{p}}/x --layers one": "whole numbers with commas",
    f"{HEAD} -o {{p}}/x --layers 2": "layer must be in [1, 1]",
    f"{HEAD} -o {{p}}/no/x": "cannot be written: No such file",
    f"{HEAD} -o {{p}}/x --test {{p}}/q.labels": "must hold other questions, and 12 of them",
    f"{SOLVE} -m {{p}}/other --scorer head:{{p}}/h": "is for {p}",
    f"{SOLVE} -m {{p}}/model --scorer head:{{p}}/q.labels": "holds no head",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_one_sentence(place, learnt, words):
    """And exit code 2; nothing is written."""
    code, said = call(*words.format(p=place).split())
    assert code == 2, said
    assert MISTAKES[words].format(p=place) in " ".join(said.split())
    assert "Traceback" not in said
    assert not (place / "x").exists()


def test_a_head_that_knows_nothing_says_so(place):
    """Labels that hang on nothing: a sentence beside the figures."""
    (place / "coin").write_text(
        '{"labels": 1}\n'
        + "".join(
            json.dumps({"question": f"{n}", "prompt": [70], "tokens": [70], "ends": [1], "labels": [n % 2]}) + "\n"
            for n in range(24)
        )
    )
    code, said = call("head", place / "coin", "-o", place / "c", "-m", place / "model")
    assert code == 0
    assert "no better than a coin" in " ".join(said.split())
