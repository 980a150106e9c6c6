"""Labels of legs: a share of right ends that a person can count, from votes and from trees; and their file."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from scripted import Characters, scripted
from world import Oracle, Tokens, answer, is_right, world

from fastsample.evaluation.dataset import Item, RunError
from fastsample.evaluation.evaluate import evaluate
from fastsample.evaluation.stored import read_paths
from fastsample.scoring.verifiers import scorer_of
from fastsample.solving.solve import solve
from fastsample.strategies.question import Settings
from fastsample.strategies.splitting import Splitter
from fastsample.training.labels import Counts, Labelled, labels_of, read_labels, write_labels

WORDS = Characters()


def ids(text):
    return tuple(WORDS(text)["input_ids"])


def run(folder, reply, strategy="vote", key="4", slots=64, **settings):
    """A run over texts that are a function of what was written so far."""
    engine = scripted(reply, slots)
    settings = Settings(**({"temperatures": (1.0,), "samples": 4, "max_new_tokens": 32} | settings))
    items = [Item("q", "2 + 2?", key)]
    evaluate(None, engine.tokenizer, items, folder, settings=settings, extractor="regex:=(.)$", strategy=strategy,
             engine=engine)  # fmt: skip
    return folder


def branching(prompt, written, request):
    """Two lines; the first is right on every second stream, and then the second is on three of four."""
    if not written:
        return "ab"[request.stream % 2]
    if written in ("a", "b"):
        return "\n"
    if written in ("a\n", "b\n"):
        return "="
    return "" if written[-1] in "45" else ("4" if written[0] == "a" and request.stream % 4 else "5")


def test_every_leg_of_a_vote_has_its_text_s_verdict(tmp_path):
    """Two legs a text, as the delimiter cuts them; the share of right texts is counted."""
    counts = Counts()
    found = list(labels_of(run(tmp_path / "run", branching), WORDS, until="\n", counts=counts))
    assert len(found) == counts.texts == 4
    for one in found:
        text = WORDS.decode(one.tokens)
        assert one.ends == (2, 4)
        assert set(one.labels) == {float(text.endswith("=4"))}
        assert WORDS.decode(one.prompt).endswith("2 + 2?<assistant>")
    assert (counts.legs, counts.right) == (8, sum(one.labels[0] for one in found))


def test_a_leg_of_a_tree_has_the_share_of_its_rollouts(tmp_path):
    """Rollouts behind the first leg: its label is the mean over its own end and theirs; each leg is told once."""
    folder = run(tmp_path / "run", branching, "rollouts:samples=2,n=6,until=\\n")
    found = list(labels_of(folder, WORDS, until="\n"))
    lines = [json.loads(line) for line in (folder / "paths.jsonl").read_text().splitlines()]
    firsts = [line for line in lines if line["parent"] == 0]
    assert len(firsts) == 2
    assert len(lines) == 1 + 2 + 2 + 12
    told = {}
    for one in found:
        for end, label in zip(one.ends, one.labels):
            if end == 2:
                told.setdefault(one.tokens[:2], []).append(label)
    for first in firsts:
        ends = [line["answer"] == "4" for line in lines if line["parent"] == first["number"]]
        assert len(ends) == 7
        assert sum(ends) / 7 in told[tuple(first["tokens"])]
    assert sum(len(one.ends) for one in found) == len(lines) - 1


def test_a_value_is_the_mean_over_children_and_not_over_ends(tmp_path):
    """Three legs; the middle one of a text has rollouts of its own, that must not outweigh those of the first."""

    def reply(prompt, written, request):
        if written.count("\n") < 2:
            return "a" if not written or written[-1] == "\n" else "\n"
        is_right = len(request.prompt) > len(prompt) and request.stream % 2
        return "" if written[-1] in "45" else "=" if written[-1] == "\n" else "45"[not is_right]

    folder = run(tmp_path / "run", reply, "rollouts:samples=1,n=2,until=\\n")
    lines = [json.loads(line) for line in (folder / "paths.jsonl").read_text().splitlines()]
    children = {}
    for line in lines:
        children.setdefault(line["parent"], []).append(line)

    def worth(line):
        mine = children.get(line["number"], [])
        return sum(map(worth, mine)) / len(mine) if mine else float(line["answer"] == "4")

    (first,) = children[0]
    (one, *_) = labels_of(folder, WORDS, until="")
    assert one.labels[0] == worth(first)
    ends = [line for line in lines if line["number"] not in children]
    assert len(ends) == 5
    assert len(children[first["number"]]) == 3


def test_the_first_mistake_is_found(tmp_path):
    """In a world where wrong stays wrong: of every text that was searched the last right place and the first wrong one
    are known, for log2 of its legs in places; nothing but the places that were continued has a label."""
    depth, k = 8, 16
    items = [Item(f"q{n}", str(n), "right") for n in range(8)]
    strategy = f"omega:k={k},searches=3"
    evaluate(
        None, Tokens(), items, tmp_path / "run", settings=Settings(max_new_tokens=40), extractor=answer,
        engine=world(0.85, depth=depth), strategy=strategy, scorer="key", named={"model": "world", "dtype": None},
    )  # fmt: skip
    trees = {}
    for path in read_paths(tmp_path / "run"):
        trees.setdefault(path["question"], {})[path["number"]] = path
    cuts = searched = 0
    for tree in trees.values():
        children = Counter(path["parent"] for path in tree.values() if path["finish"] != "cut")
        places = [path for path in tree.values() if path["finish"] == "cut"]
        assert all(children[path["number"]] == k for path in places)
        assert len(places) <= 3 * 3  # log2(8) a search
        cuts += len(places)
        searched += len({tuple(path["tokens"][:1]) for path in places})
    assert cuts > searched > 8
    found = list(labels_of(tmp_path / "run", Tokens()))
    labels = [(one.tokens[:end], label) for one in found for end, label in zip(one.ends, one.labels)]
    inner = [(tokens, label) for tokens, label in labels if len(tokens) < depth]
    assert len(inner) == cuts
    assert {label for tokens, label in inner if not is_right(tokens)} == {0.0}
    assert all(label > 0 for tokens, label in inner if is_right(tokens) and len(tokens) > 5)
    for tree in trees.values():  # neighbours: the place before the first wrong one is right, where it was looked at
        worth = {tuple(t): label for t, label in inner}
        for path in tree.values():
            mine = [n for n in range(1, depth) if tuple(path["tokens"][:n]) in worth and path["parent"] == 0]
            states = [worth[tuple(path["tokens"][:n])] > 0 for n in mine]
            assert states == sorted(states, reverse=True)


def test_omega_refuses():
    """A scorer of legs, none, an empty delimiter, a temperature of 0; and a key that nobody knows."""
    for strategy, scorer, part in (
        ("omega", None, "omega needs a scorer"),
        ("omega", Oracle(), "whether a whole text is right, and oracle gives other numbers"),
        ("omega", "mean-logprob", "gives other numbers"),
        ("omega:until=", "exact:1", "cuts texts at the ends of their legs"),
        ("omega:temperature=0", "exact:1", "at 0 all say the same"),
        ("omega:alpha=0", "exact:1", "alpha and beta must be in"),
        ("omega", "key", "the scorer key is for evaluate"),
    ):
        with pytest.raises(ValueError, match=part):
            solve(None, Tokens(), "1", strategy=strategy, scorer=scorer, engine=world(0.5), extractor=answer)


def test_another_verifier(tmp_path):
    """A scorer of whole texts in the place of the key, where there is none."""
    folder = run(tmp_path / "run", branching, key=None)
    counts = Counts()
    assert list(labels_of(folder, WORDS, until="\n", counts=counts)) == []
    assert counts.unknown == 1
    found = list(labels_of(folder, WORDS, until="\n", verifier=scorer_of("exact:5")))
    assert {one.labels[0] == float(WORDS.decode(one.tokens).endswith("5")) for one in found} == {True}
    assert len(found) == 4


def test_where_legs_end():
    """Behind the token that completes the delimiter; white space makes no leg; the rest is one."""
    assert Splitter(WORDS, "\n").ends(ids("ab\ncd")) == [3, 5]
    assert Splitter(WORDS, "\n").ends(ids("\n\nab\n")) == [5]
    assert Splitter(WORDS, "\n\n").ends(ids("a\nb\n\nc\n\n")) == [5, 8]
    assert Splitter(WORDS, "").ends(ids("a\nb")) == [3]
    assert Splitter(WORDS, "\n").ends(()) == []


def test_the_file_comes_back(tmp_path):
    """And what it was made from."""
    labelled = [Labelled("q", (1, 2), (3, 4, 5), (1, 3), (0.25, 1.0)), Labelled("r", (1,), (3,), (1,), (0.0,))]
    write_labels(tmp_path / "l", labelled, {"kind": "outcome"})
    assert read_labels(tmp_path / "l") == (labelled, {"kind": "outcome"})


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: a line must hold question, prompt, tokens, ends, labels, got a list"),
        (
            '{"question": "q", "prompt": [1], "tokens": [1], "ends": [2], "labels": [1]}',
            "line 2: ends holds 2; the file",
        ),
        ('{"question": "q", "prompt": [1], "tokens": [1], "ends": [1], "labels": [1.5]}', "line 2: labels holds 1.5"),
        ('{"question": "q", "prompt": [1], "tokens": [1], "ends": [1], "labels": [NaN]}', "line 2: not JSON"),
        (
            '{"question": "q", "prompt": [1], "tokens": [1], "ends": [1], "labels": []}',
            "a label for each end is needed",
        ),
        ('{"question": "q", "prompt": [-1], "tokens": [1], "ends": [1], "labels": [1]}', "line 2: prompt holds -1"),
        ('{"question": "q", "prompt": 1, "tokens": [1], "ends": [1], "labels": [1]}', "line 2: prompt holds 1"),
    ],
)
def test_a_damaged_file_is_told_by_its_line(tmp_path, line, sentence):
    """Of labels, as of runs."""
    path = tmp_path / "l"
    path.write_text('{"labels": 1}\n' + line + "\n")
    with pytest.raises(RunError, match=sentence.replace("[", r"\[")):
        read_labels(path)


def test_files_that_are_no_labels(tmp_path):
    """Questions, nothing at all, and none."""
    (tmp_path / "q").write_text('{"question": "1?"}\n')
    (tmp_path / "empty").write_text("")
    with pytest.raises(RunError, match="line 1: it is no file of labels"):
        read_labels(tmp_path / "q")
    with pytest.raises(RunError, match="holds no labelled text"):
        read_labels(tmp_path / "empty")
    with pytest.raises(RunError, match="cannot be read"):
        read_labels(tmp_path / "gone")
