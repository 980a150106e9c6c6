"""The command efforts and its table: levels by hand, and the run that tops reads."""

from __future__ import annotations

import json

import bigram
import pytest
from scripted import Characters, ScriptedEngine
from typer.testing import CliRunner

from fastsample.cli import main as app
from fastsample.evaluation.dataset import Item
from fastsample.evaluation.efforts import HEADS, cells, levels_of
from fastsample.evaluation.evaluate import evaluate
from fastsample.evaluation.report import report_of
from fastsample.evaluation.stored import read_paths
from fastsample.strategies.question import Settings

# What is written at each level: a text of so many letters behind its answer.
SAID = {"briefly": "1a", "step by step": "1aaaa", "for long": "2aaaaaaaa"}


def run_of(folder, items, levels="low/medium/high"):
    """Every text of a level is the same; question 2 is right at length only."""

    def next_token(request, ids):
        text = "".join(map(chr, ids))
        prompt, _, written = text.partition("<assistant>")
        said = next(said for mark, said in SAID.items() if mark in prompt) if "<system>" in prompt else "9"
        return ord(said[len(written)]) if len(written) < len(said) else 0

    evaluate(
        None, Characters(), items, folder, settings=Settings(max_new_tokens=8), extractor=lambda text: text[:1] or None,
        strategy=f"efforts:n=2,levels={levels}", engine=ScriptedEngine(next_token, Characters()),
        named={"model": "scripted", "dtype": None},
    )  # fmt: skip
    return folder


def test_levels_by_hand(tmp_path):
    """Two questions; 1 is right briefly and step by step, 2 nowhere but at length, where its text is cut."""
    folder = run_of(tmp_path / "run", [Item("a", "?", "1"), Item("b", "?", "2"), Item("c", "?")])
    low, medium, high = levels_of(folder)
    assert (low.name, low.questions, low.texts, low.right, low.solved, low.tokens, low.cut) == (
        "low",
        2,
        4,
        0.5,
        1,
        2,
        0,
    )
    assert (medium.right, medium.right_tokens, medium.tokens) == (0.5, 5, 5)
    assert (high.right, high.tokens, high.cut, high.solved) == (0.5, 8, 1.0, 1)
    assert [level.shortest for level in (low, medium, high)] == [1, 0, 0]  # a cut text is no lesson
    assert low.low <= low.right <= low.high
    assert len(cells(low)) == len(HEADS)
    assert [x.name for x in report_of(folder).levels] == ["low", "medium", "high"]
    assert [x.name for x in levels_of(run_of(tmp_path / "two", [Item("a", "?", "1")], "high/low"))] == ["high", "low"]


@pytest.mark.parametrize("strategy", ["efforts:n=1", "force:effort=low,thinking=4,answer=2"])
def test_a_level_asks_the_question_as_the_run_does(tmp_path, strategy):
    """The run's template and suffix are around it, and the level's system prompt in front: the run's own is not."""
    settings = Settings(max_new_tokens=4, prompt_template="<<{question}>>", suffix=" Go.", system="Be kind.")
    evaluate(
        None, Characters(), [Item("a", "1+1?", "2")], tmp_path / "run", settings=settings, strategy=strategy,
        engine=ScriptedEngine(lambda *_: 49, Characters()), named={"model": "x", "dtype": None},
    )  # fmt: skip
    roots = ["".join(map(chr, path["prompt"])) for path in read_paths(tmp_path / "run") if path["parent"] is None]
    assert len(roots) == (4 if strategy.startswith("efforts") else 2)
    for root in roots[1:]:
        assert root.endswith("<user><<1+1?>> Go.<assistant>")
        assert root.startswith("<system>Think")


def test_the_command(tmp_path):
    """A run of evaluate, the table, its JSON, and lessons out of it; a second start without --resume is refused."""
    folder = bigram.save_folder(tmp_path / "model", context=2048)
    template = "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}<|assistant|>"
    (folder / "chat_template.jinja").write_text(template)
    questions, out = tmp_path / "q.jsonl", tmp_path / "run"
    questions.write_text('{"question": "2 + 2?", "answer": "4"}\n')
    args = ["efforts", str(questions), "--out", str(out), "-n", "3", "--max-new-tokens", "4", "--model", str(folder)]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    for word in ("effort", "low", "medium", "high", "fastsample tops"):
        assert word in done.stderr
    levels = json.loads(CliRunner().invoke(app, [*args, "--resume", "--json"]).stdout)
    assert [(x["name"], x["texts"]) for x in levels] == [("low", 3), ("medium", 3), ("high", 3)]
    config = json.loads((out / "config.json").read_text())
    assert config["strategy"] == "efforts:n=3"
    assert CliRunner().invoke(app, ["tops", str(out), "--out", str(tmp_path / "lessons")]).exit_code == 0
    assert "low" in CliRunner().invoke(app, ["report", str(out)]).output
    for more, part in ((), "--resume"), (("--levels", "low/max"), "levels must be of"), (("-n", "0"), "n must be"):
        refused = CliRunner().invoke(app, [*args, *more])
        assert (refused.exit_code, part in " ".join(refused.output.split())) == (2, True), refused.output


@pytest.mark.parametrize("strategy", ["best:n=2,how=vote", "vote"])
def test_another_run_has_no_levels(tmp_path, strategy):
    """They belong to the strategy efforts."""
    evaluate(
        None, Characters(), [Item("a", "?", "1")], tmp_path / "run", settings=Settings((0.5,), 2, max_new_tokens=4),
        strategy=strategy, engine=ScriptedEngine(lambda *_: 49, Characters()), named={"model": "x", "dtype": None},
    )  # fmt: skip
    assert levels_of(tmp_path / "run") == []
