"""A head over a bigram model, whose hidden states are one-hot: each token's number can be worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from math import exp

import bigram
import pytest
import torch
from safetensors.torch import save_file
from scripted import scripted

import fastsample
from fastsample.engines.local.engine import LocalEngine
from fastsample.evaluation.dataset import Item
from fastsample.evaluation.evaluate import evaluate
from fastsample.models.digest import digest_of
from fastsample.scoring.base import Candidate, Leg, numbers_of
from fastsample.scoring.head import Head
from fastsample.scoring.signals import Sigmoid
from fastsample.scoring.verifiers import scorer_of

WORTH = {"4": 2.0, "5": -3.0, "a": 0.5, "Ċ": 1.0}  # of the last token of a leg


@pytest.fixture(scope="module")
def lines():
    tokenizer = bigram.bigram_tokenizer()
    return bigram.bigram_model(tokenizer, bigram.LINES), tokenizer


@pytest.fixture(scope="module")
def head(lines):
    """w is 3 WORTH, std 3, the mean of token 4 is 0.5: the logit is WORTH of the token, less 1, and 0.25."""
    model, tokenizer = lines
    width = model.config.hidden_size
    w, mean = torch.zeros(width), torch.zeros(width)
    for token, value in WORTH.items():
        w[tokenizer.convert_tokens_to_ids(token)] = 3 * value
    mean[tokenizer.convert_tokens_to_ids("4")] = 0.5
    about = {"layer": 1, "width": width, "model": "bigram", "digest": digest_of(model, 1), "task": "lines"}
    return Head(w, mean, torch.full((width,), 3.0), torch.tensor(0.25), about)


def by_hand(token):
    """The number of a leg that ends in this token."""
    logit = WORTH[token] - 0.5 * WORTH["4"] + 0.25
    return 1 / (1 + exp(-logit))


def last_tokens(tokenizer, path):
    return [tokenizer.convert_ids_to_tokens([leg.tokens[-1]])[0] for leg in path.legs() if leg.tokens]


def ask(lines, scorer, strategy, **more):
    return fastsample.solve(*lines, "2?", strategy=strategy, scorer=scorer, max_new_tokens=24, **more)


@pytest.mark.parametrize("strategy", ["beam:n=4,m=2,until=\\n,leg=8", "dvts:n=4,m=2,until=\\n,leg=8", "best:n=6",
                                      "beam:n=4,m=2,until=\\n,lookahead=1", "mcts:rounds=4,m=2,until=\\n"])  # fmt: skip
def test_each_leg_has_the_number_of_its_last_token(lines, head, strategy):
    """Whatever ended it: a line break, the end of the text, its limit."""
    found, seen = ask(lines, head, strategy, extractor=r"regex:\d"), set()
    for path in found.paths:
        if path.scores:
            ends = last_tokens(lines[1], path)
            seen.add(path.finish)
            if len(ends) == len(path.scores):
                assert path.scores == tuple(pytest.approx(by_hand(end), abs=1e-6) for end in ends)
    assert "eos" in seen
    assert found.scorer == "head"


def test_a_vote_is_scored_too(lines, head):
    """Samples of a plain vote: the score of each is that of its last token."""
    found = ask(lines, head, "vote", temperatures=(0.8,), samples=8, extractor=r"regex:\d", rule="majority")
    scored = [s for s in found.samples if s.score is not None]
    assert scored
    for sample in scored:
        tokens = sample.token_ids[:-1] if sample.finish == "eos" else sample.token_ids
        last = lines[1].convert_ids_to_tokens([tokens[-1]])[0]
        assert sample.score == pytest.approx(by_hand(last), abs=1e-6)
    assert "state" not in scored[0].to_json(full=True)


def test_no_forward_pass_is_made_for_a_score(lines, head):
    """A head of zeros says 0.5 of every leg: the same tree as by a scorer that reads nothing, in as many steps."""
    zero = replace(head, w=head.w * 0, b=head.b * 0)
    told = []
    for scorer in (zero, Constant()):
        engine = LocalEngine(*lines, slots=8)
        found = ask(lines, scorer, "beam:n=4,m=2,until=\\n,how=best", engine=engine)
        tree = [(path.tokens, path.scores, path.fate) for path in found.paths]
        told.append((engine.steps, engine.prefill_tokens, tree))
    assert told[0] == told[1]
    assert told[0][0] > 8


class Constant:
    """The same for every leg."""

    name, is_process, is_probability = "constant", True, True

    def score(self, candidates):
        return [(0.5,) * len(c.legs) for c in candidates]


def test_a_result_does_not_depend_on_slots(lines, head):
    """The same numbers to the bit, alone and in full batches."""
    scores = []
    for slots in (2, 3, 16):
        found = ask(lines, head, "beam:n=4,m=2,until=\\n,leg=6", slots=slots, prepack=True)
        scores.append([(p.tokens, p.scores) for p in found.paths])
    assert scores[0] == scores[1] == scores[2]


def test_the_file_comes_back_as_it_was(lines, head, tmp_path):
    """Every number and what is said of it; its name tells of another content."""
    path = tmp_path / "mine.safetensors"
    head.save(path)
    again = scorer_of(f"head:{path}")
    assert again.about == head.about
    assert all(torch.equal(getattr(again, n), getattr(head, n)) for n in ("w", "mean", "std", "b"))
    assert again.name.startswith("head:mine.safetensors@")
    replace(head, b=torch.tensor(1.0)).save(path)
    assert Head.load(path).name != again.name
    found = ask(lines, f"head:{path}", "best:n=3", extractor=r"regex:\d")
    assert found.score is not None


def test_a_run_is_not_gone_on_with_by_another_head(lines, head, tmp_path):
    """It scores otherwise: the run says so; and a head of another model leaves no folder behind."""
    head.save(tmp_path / "h.safetensors")
    strategy = {"strategy": "best:n=2", "scorer": f"head:{tmp_path}/h.safetensors", "extractor": r"regex:\d"}
    evaluate(*lines, [Item("a", "2?", "4")], tmp_path / "run", **strategy)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["scorer"].startswith("head:h.safetensors@")
    replace(head, b=torch.tensor(1.0)).save(tmp_path / "h.safetensors")
    with pytest.raises(ValueError, match="another configuration"):
        evaluate(*lines, [Item("a", "2?", "4")], tmp_path / "run", resume=True, **strategy)
    other = bigram.bigram_model(lines[1], bigram.LINES)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.add_(0.25)
    with pytest.raises(ValueError, match=r"is for bigram \(digest \w+\), got \S+ \(digest \w+\); train one with"):
        evaluate(other, lines[1], [Item("a", "2?", "4")], tmp_path / "new", **strategy)
    assert not (tmp_path / "new").exists()


def test_what_has_no_states_is_refused(head):
    """An engine without a model that could give them; before the first request."""
    engine = scripted(lambda *_: "")
    with pytest.raises(
        ValueError, match="the scorer head reads the model's hidden states, and the engine scripted does"
    ):
        fastsample.solve(None, engine.tokenizer, "2?", strategy="best:n=2", scorer=head, engine=engine)
    assert engine.requests == []


def test_legs_without_a_state(head):
    """What drew nothing has the number before it, or 0; what was drawn and has none is refused."""
    state = torch.zeros(head.about["width"])
    nothing = Leg("", is_drawn=False)
    said = numbers_of(head, [Candidate("q", "", None, legs=(nothing, Leg("a", state=state), nothing))])
    number = head.of(state)
    assert said == [(0.0, number, number)]
    assert number == pytest.approx(1 / (1 + exp(0.75)), abs=1e-6)
    with pytest.raises(ValueError, match="has kept none of a leg that it wrote"):
        numbers_of(head, [Candidate("q", "a", None, legs=(Leg("a"),))])
    assert numbers_of(Sigmoid(head), [Candidate("q", "a", None, legs=(Leg("a", state=state),))])
    assert Sigmoid(head).layer == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_states_that_are_not_finite(head, bad):
    """One sentence, of the model."""
    state = torch.zeros(head.about["width"])
    state[3] = bad
    with pytest.raises(ValueError, match="NaN or an infinity in it; the model overflows"):
        head.of(state)
    with pytest.raises(ValueError, match="reads states of 260 numbers, got"):
        head.of(torch.zeros(3))


def test_heads_that_are_none(head, tmp_path):
    """Numbers that are not finite, shapes and fields that do not fit: where they are made, and from a file."""
    nan = head.w.clone()
    nan[0] = float("nan")
    with pytest.raises(ValueError, match="a head's w must be finite, got a NaN"):
        replace(head, w=nan)
    with pytest.raises(ValueError, match=r"a head's mean must have the shape \[260\], got \[3\]"):
        replace(head, mean=torch.zeros(3))
    with pytest.raises(ValueError, match="a head's std must be above 0"):
        replace(head, std=head.std * 0)
    with pytest.raises(ValueError, match="must say its layer, width, model, digest, got none of digest"):
        replace(head, about={"layer": 1, "width": 260, "model": "m"})
    with pytest.raises(ValueError, match="reads hidden states, and no model runs in this process"):
        head.bound(None)


def test_files_that_are_none(head, tmp_path):
    """Not there, a folder, no safetensors, other tensors, cut short, edited: a sentence each, and never a traceback."""
    head.save(tmp_path / "good")
    whole = (tmp_path / "good").read_bytes()
    (tmp_path / "text").write_text("not a head")
    (tmp_path / "short").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "nothing").write_bytes(b"")
    save_file({"w": torch.zeros(3)}, tmp_path / "other")
    save_file(
        {"w": torch.zeros(3)}, tmp_path / "half", {"format": "fastsample head 1", "about": json.dumps(head.about)}
    )
    save_file({"w": torch.zeros(3)}, tmp_path / "odd", {"format": "fastsample head 1", "about": "[1]"})
    for name in ("text", "short", "nothing", "other", "half", "odd"):
        with pytest.raises(ValueError, match=rf"{name} holds no head \(.+\); fastsample head makes one"):
            scorer_of(f"head:{tmp_path}/{name}")
    for name in ("gone", "."):
        with pytest.raises(ValueError, match="cannot be read"):
            scorer_of(f"head:{tmp_path}/{name}")
