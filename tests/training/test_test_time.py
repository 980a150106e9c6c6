"""Test-time training on tiny models: it learns, it answers, and it leaves every parameter as it was, to the byte."""

from __future__ import annotations

import json

import bigram
import pytest
import torch
from scripted import ScriptedEngine
from typer.testing import CliRunner

from fastsample.cli import main as app
from fastsample.engines.base import Request
from fastsample.engines.local.engine import LocalEngine
from fastsample.evaluation.dataset import RunError
from fastsample.training.adapters import Lesson, Tuning, adapted, loss_of
from fastsample.training.puzzle_run import answer_all, compared, read_answers, score_of
from fastsample.training.puzzles import Pair, Puzzle
from fastsample.training.test_time import Looks, answer_puzzle

pytest.importorskip("peft", reason="peft is not installed: pip install 'fastsample[ttt]'")

COPY = Puzzle("copy", tuple(Pair(((n, n),), ((n, n),)) for n in (1, 2, 3)), (Pair(((4, 4),), ((4, 4),)),))
LESSONS = [Lesson(tuple(range(65, 85)), (False,) * 10 + (True,) * 10)]


@pytest.fixture
def tiny():
    """(a llama of two layers that has learnt nothing, a tokenizer of bytes)"""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = bigram.bigram_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # it is not learnt, and a model of this size is sure of nothing without
    return model, tokenizer


def state_of(model):
    """Every parameter's and buffer's bytes, what needs gradients, the layers, and the model's own attributes."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    data = {name: t.detach().contiguous().view(torch.uint8).numpy().tobytes() for name, t in tensors}
    needs = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    layers = [(name, id(module), module.training) for name, module in model.named_modules()]
    return data, needs, layers, sorted(vars(model))


def test_it_learns_and_forgets(tiny):
    """The loss falls inside, and is what it was behind; everything else is what it was, to the byte."""
    model, _ = tiny
    model.lm_head.weight.requires_grad_(False)  # what the caller has frozen stays so
    before, loss = state_of(model), loss_of(model, LESSONS).item()
    with adapted(model, LESSONS, Tuning(steps=30, rate=1e-2)) as losses:
        inside = loss_of(model, LESSONS).item()
        assert state_of(model)[2:] == before[2:]  # the model's own layers, with other weights
        assert state_of(model)[0] != before[0]
    assert len(losses) == 30
    assert losses[0] == pytest.approx(loss, rel=1e-5)
    assert inside < loss / 2
    assert state_of(model) == before
    assert loss_of(model, LESSONS).item() == loss


def test_the_same_seed_learns_the_same(tiny):
    """And nobody else's random numbers are used up."""
    model, _ = tiny
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found = []
    for seed in (1, 1, 2):
        with adapted(model, LESSONS, Tuning(steps=2, rate=1e-2, seed=seed)) as losses:
            found.append((losses, state_of(model)[0]))
    assert torch.equal(torch.rand(3), expected)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("where", ["inside", "learning"])
def test_whatever_is_raised_the_weights_are_put_back(tiny, where, monkeypatch):
    """An error and Ctrl-C, while it is used and while it learns."""
    model, _ = tiny
    before = state_of(model)
    if where == "learning":
        steps = iter([True, False])
        monkeypatch.setattr(
            "torch.optim.AdamW.step", lambda *_: next(steps) or (_ for _ in ()).throw(KeyboardInterrupt)
        )
    with pytest.raises(KeyboardInterrupt), adapted(model, LESSONS, Tuning(steps=3)):
        raise KeyboardInterrupt
    assert state_of(model) == before


def test_an_engine_sees_what_is_learnt_and_that_it_is_gone(tiny):
    """One engine before, inside and behind: other texts inside, the same ones before and behind, with packed weights
    too."""
    model, tokenizer = tiny
    for prepack in (False, True):
        engine = LocalEngine(model, tokenizer, prepack=prepack)

        def written():
            (sample,) = engine.submit([Request(tuple(range(65, 75)), temperature=0.0, max_new_tokens=8)])  # noqa: B023
            while sample.finish is None:
                engine.step()  # noqa: B023
            return sample.token_ids

        before = written()
        with adapted(model, LESSONS, Tuning(steps=60, rate=1e-2)):
            assert written() == tuple(range(75, 83))  # the lesson, by heart
        assert before != tuple(range(75, 83))
        assert written() == before


def test_a_puzzle_is_learnt_and_forgotten(tiny):
    """The loss falls; without learning there is none; the weights stay."""
    model, tokenizer = tiny
    before = state_of(model)
    (untaught,) = answer_puzzle(model, tokenizer, COPY, tuning=Tuning(steps=0))
    assert (untaught.lessons, untaught.losses, untaught.texts) == (0, (), 4)
    (taught,) = answer_puzzle(model, tokenizer, COPY, tuning=Tuning(steps=40, rate=1e-2))
    assert (taught.lessons, len(taught.losses), taught.texts) == (250, 40, 4)
    assert taught.losses[-1] < taught.losses[0] / 2
    assert state_of(model) == before


@pytest.mark.parametrize("copies", [True, False])
def test_answers_are_put_back_into_the_puzzle_s_own_view(tiny, copies):
    """An engine that copies what it is asked in each view is right in all; one that says the same in all is not."""
    model, tokenizer = tiny
    puzzle = Puzzle("p", (Pair(((1, 2),), ((1, 2),)), Pair(((3, 1),), ((3, 1),))), (Pair(((4, 5),), ((4, 5),)),))

    def next_token(request, ids):
        text = tokenizer.decode(list(ids))
        asked = text.rpartition("input\n")[2].partition("\noutput\n")
        said = (asked[0] if copies else "12") + "\n\n"
        return tokenizer(said[len(asked[2]) :][0])["input_ids"][0]

    engine = ScriptedEngine(next_token, tokenizer)
    (answer,) = answer_puzzle(model, tokenizer, puzzle, tuning=Tuning(steps=0), looks=Looks(orders=3), engine=engine)
    assert (answer.texts, answer.grids) == (6, 6)
    if copies:
        assert (answer.attempts, answer.votes, answer.is_right, answer.first) == ((((4, 5),),), (6,), True, True)
    else:
        assert (answer.is_right, answer.first, len(answer.attempts)) == (False, False, 2)


def test_samples_of_a_view(tiny):
    """At a temperature each view may say several things; the same seed says the same."""
    model, tokenizer = tiny
    looks = Looks(orders=1, samples=3, temperature=1.0)
    first, again = (answer_puzzle(model, tokenizer, COPY, tuning=Tuning(steps=1), looks=looks)[0] for _ in range(2))
    assert first == again
    assert first.texts == 6
    with pytest.raises(ValueError, match="all 2 samples say the same"):
        Looks(samples=2)


def test_refusals(tiny):
    """A model with adapters, a puzzle of one pair, one that is too long; the weights stay."""
    model, tokenizer = tiny
    before = state_of(model)
    with pytest.raises(ValueError, match="teaches a token"), adapted(model, []):
        pass
    with pytest.raises(ValueError, match="teaches a token"):
        answer_puzzle(model, tokenizer, Puzzle("one", COPY.train[:1], COPY.test))
    large = ((1,) * 30,) * 20
    with pytest.raises(ValueError, match=r"takes 1,\d+ tokens, and the model reads 512"):
        answer_puzzle(model, tokenizer, Puzzle("large", COPY.train, (Pair(large, None),)))
    model.peft_config = {}
    with pytest.raises(ValueError, match="adapters already"), adapted(model, LESSONS):
        pass
    del model.peft_config
    assert state_of(model) == before
    for wrong, part in (({"rank": 0}, "rank"), ({"rate": 0.0}, "rate"), ({"steps": -1}, "steps")):
        with pytest.raises(ValueError, match=part):
            Tuning(**wrong)


def test_a_file_of_answers(tiny, tmp_path):
    """A line a test; gone on with after a line was cut in the middle; compared with another test by test."""
    model, tokenizer = tiny
    puzzles = [COPY, Puzzle("two", COPY.train, (*COPY.test, Pair(((5, 5),), None)))]
    given = {"tuning": Tuning(steps=0), "looks": Looks(orders=1)}
    out = tmp_path / "answers.jsonl"
    score = answer_all(model, tokenizer, puzzles, out, **given)
    assert (score.tests, score.known) == (3, 2)
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    assert answer_all(model, tokenizer, puzzles, out, resume=True, **given) == score
    assert out.read_bytes() == whole
    with pytest.raises(RunError, match="is there already"):
        answer_all(model, tokenizer, puzzles, out, **given)
    with pytest.raises(RunError, match="was begun with tuning"):
        answer_all(model, tokenizer, puzzles, out, resume=True, tuning=Tuning(steps=1), looks=Looks(orders=1))
    other = tmp_path / "other.jsonl"
    records = [json.loads(line) for line in lines]
    for record in records[1:]:
        record["is_right"] = None if record["is_right"] is None else True
    other.write_text("".join(json.dumps(record) + "\n" for record in records))
    tests, gap, low, high = compared(other, out)
    assert (tests, gap) == (2, 1 - score.right / 2)
    assert low <= gap <= high
    assert score_of(other).right == 2
    out.write_text("{}\n")
    with pytest.raises(RunError, match="line 1: it is no file of answers"):
        read_answers(out)


def test_the_command(tmp_path):
    """From a file of puzzles to a line of JSON, and its refusals in a sentence."""
    folder = bigram.save_folder(tmp_path / "model", context=2048)
    puzzles, out = tmp_path / "p.jsonl", tmp_path / "a.jsonl"
    record = {"train": [{"input": [[n]], "output": [[n]]} for n in (1, 2)], "test": [{"input": [[3]], "output": [[3]]}]}
    puzzles.write_text(json.dumps({"id": "x", **record}) + "\n" + json.dumps({"id": "y", **record}) + "\n")
    args = ["ttt", str(puzzles), "--out", str(out), "--model", str(folder), "--steps", "1"]
    done = CliRunner().invoke(app, [*args, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["tests"], told["known"], told["failed"], told["difference"]) == (2, 2, 0, None)
    again = CliRunner().invoke(app, [*args, "--resume", "--against", str(out), "--json"])
    assert json.loads(again.stdout.splitlines()[-1])["difference"] == [2, 0.0, 0.0, 0.0]
    for more, part in (
        ([], "is there already"),
        (["--resume", "--steps", "2"], "was begun with tuning"),
        (["--rank", "0"], "rank must be at least 1"),
        (["--lessons", "0"], "lessons must be at least 1"),
    ):
        refused = CliRunner().invoke(app, [*args, *more])
        assert (refused.exit_code, part in " ".join(refused.output.split())) == (2, True), refused.output


def test_without_peft(monkeypatch, tiny, tmp_path):
    """One sentence, before a model is loaded; without learning it is not needed."""
    model, tokenizer = tiny
    monkeypatch.setattr("fastsample.training.adapters.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastsample\[ttt\]'"), adapted(model, LESSONS):
        pass
    assert answer_puzzle(model, tokenizer, COPY, tuning=Tuning(steps=0))
    puzzles = tmp_path / "p.jsonl"
    puzzles.write_text('{"train": [{"input": [[1]], "output": [[1]]}], "test": [{"input": [[1]]}]}')
    refused = CliRunner().invoke(app, ["ttt", str(puzzles), "--out", str(tmp_path / "a")])
    assert (refused.exit_code, "which is not installed" in refused.output) == (2, True)
