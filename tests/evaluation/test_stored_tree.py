"""Strategies replayed on stored legs: the same as with the engine that wrote them, and refused by name where not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from scripted import Characters, ScriptedEngine, chance
from typer.testing import CliRunner
from world import Constant, Noisy, Oracle, Tokens, answer, world

from fastsample.cli import main as app
from fastsample.evaluation.dataset import Item
from fastsample.evaluation.evaluate import evaluate
from fastsample.evaluation.replayed import rows_of, usual_strategies
from fastsample.evaluation.report import report_of
from fastsample.evaluation.stored_tree import NotStoredError, StoredScores, replay_strategy
from fastsample.solving.solve import solve_many
from fastsample.strategies.base import Choice, Grow, Read
from fastsample.strategies.question import Question, Settings
from fastsample.strategies.task import Budget

SETTINGS = Settings((0.8,), 8, max_new_tokens=40)
ITEMS = [Item(f"q{n}", str(n), "right") for n in range(6)]


def run_of(folder, strategy, scorer=None, **more):
    """A run in the world of right and wrong legs, and its results by id."""
    results = {}
    given = {"tokenizer": Tokens(), "engine": world(0.8, depth=4), "extractor": answer, "settings": SETTINGS} | more
    evaluate(
        None, given.pop("tokenizer"), ITEMS, folder, strategy=strategy, scorer=scorer,
        named={"model": "world", "dtype": None}, on_result=lambda r, _: results.setdefault(r.id, r), **given,
    )  # fmt: skip
    return results


def live(strategy, scorer=None, p=0.8):
    """The same questions, by the engine."""
    asked = [Question(item.question, item.id) for item in ITEMS]
    return {
        r.id: r
        for r in solve_many(
            None, Tokens(), asked, settings=SETTINGS, extractor=answer, scorer=scorer, strategy=strategy,
            engine=world(p, depth=4), is_strict=True,
        )
    }  # fmt: skip


def told(found, names="answer text status reason score tokens legs rounds depth dropped merged scored"):
    """What a replay must have in common with what it replays."""
    paths = [
        (p.number, p.parent and p.parent.number, p.tokens, p.text, p.finish, p.stream, p.scores, p.answer, p.fate)
        for p in found.paths
    ]
    return [getattr(found, name) for name in names.split()], paths


@pytest.mark.parametrize("strategy", [
    "best:n=8", "weighted:n=8", "best:n=8,how=tie", "best:n=6,how=vote,temperatures=0.4/0.8", "beam:n=8,m=4",
    "beam:n=4,m=2,lookahead=1,aggregate=min", "dvts:n=8,m=4", "particles:n=4", "mcts:rounds=4,m=2",
    "rollouts:samples=2,n=3",
])  # fmt: skip
def test_a_run_s_own_strategy_is_replayed_to_the_path(tmp_path, strategy):
    """Every field and every path, scores among them; the names of scorers that are not here are enough."""
    found = run_of(tmp_path / "run", strategy, Noisy())
    again = {r.id: r for r in replay_strategy(tmp_path / "run")}
    assert {q: told(r) for q, r in again.items()} == {q: told(r) for q, r in found.items()}
    assert all(r.error is None for r in again.values())
    assert list(again) == [item.id for item in ITEMS]


@pytest.mark.parametrize(("stored", "smaller"), [
    ("best:n=8", "best:n=3"), ("best:n=8", "weighted:n=8"), ("dvts:n=8,m=4", "dvts:n=4,m=4"),
    ("best:n=8", "best:n=5,how=vote"),
])  # fmt: skip
def test_less_than_was_written(tmp_path, stored, smaller):
    """Fewer texts, fewer subtrees, another choice: what the engine would have given, and what it would have cost."""
    run_of(tmp_path / "run", stored, Oracle())
    again = {r.id: told(r) for r in replay_strategy(tmp_path / "run", smaller)}
    assert again == {q: told(r) for q, r in live(smaller, Oracle()).items()}


def test_texts_of_a_vote(tmp_path):
    """Plain samples are the texts of best-of-n: the same answers and tokens as if they were drawn for it."""
    run_of(tmp_path / "run", "vote")
    for strategy in ("best:n=8,how=vote", "best:n=3,how=vote"):
        again = {r.id: r for r in replay_strategy(tmp_path / "run", strategy)}
        drawn = live(strategy)
        assert {q: (r.answer, r.tokens, r.text) for q, r in again.items()} == {
            q: (r.answer, r.tokens, r.text) for q, r in drawn.items()
        }
    with pytest.raises(
        NotStoredError, match=r"question q0: .* at temperature 0.8 that would be path 9.* has none there"
    ):
        list(replay_strategy(tmp_path / "run", "best:n=9,how=vote"))
    with pytest.raises(ValueError, match="a strategy that grows texts is replayed"):
        list(replay_strategy(tmp_path / "run"))


@pytest.mark.parametrize(("strategy", "sentence"), [
    ("beam:n=8,m=2", "the method asks for a leg at temperature 0.8 .* the run has none there"),
    ("beam:n=8,m=4,until=r", "ends at a delimiter that is not asked for"),
    ("best:n=8", "ends at a delimiter that is not asked for"),
    ("beam:n=8,m=4,temperatures=0.5", "at temperature 0.5 that would be path 1"),
])  # fmt: skip
def test_what_is_not_stored_is_refused_by_name(tmp_path, strategy, sentence):
    """Another width, another delimiter, whole texts, another temperature."""
    run_of(tmp_path / "run", "beam:n=8,m=4", Oracle())
    with pytest.raises(NotStoredError, match=sentence):
        list(replay_strategy(tmp_path / "run", strategy))
    if strategy == "best:n=8":
        run_of(tmp_path / "texts", strategy, Oracle())
        with pytest.raises(NotStoredError, match=r"goes on behind '\\n\\n'"):
            list(replay_strategy(tmp_path / "texts", "beam:n=8,m=4", scorer=Oracle()))


def test_scores(tmp_path):
    """Another scorer that reads texts is asked; what the run's own has not seen is refused, not made up."""
    run_of(tmp_path / "run", "best:n=8,how=vote", None)
    with pytest.raises(ValueError, match="best needs a scorer"):
        list(replay_strategy(tmp_path / "run", "best:n=8"))
    by_key = {r.id: r.answer for r in replay_strategy(tmp_path / "run", "best:n=8", scorer="exact:right")}
    assert by_key == {q: r.answer for q, r in live("best:n=8", "exact:right").items()}
    run_of(tmp_path / "scored", "best:n=8,how=vote", Oracle())  # a vote asks no scorer
    with pytest.raises(NotStoredError, match="the scorer oracle was not asked about a text of 4 tokens"):
        list(replay_strategy(tmp_path / "scored", "best:n=8"))
    assert (StoredScores("exact:1", {}).is_process, StoredScores("exact:1", {}).is_probability) == (False, True)
    of_legs = StoredScores("gone", {("q", (1,)): (0.5, 1.5)})
    assert (of_legs.is_process, of_legs.is_probability) == (True, False)


def test_another_prompt_and_appended_text(tmp_path):
    """Critiques and forced thinking: the tokenizer makes the same prompts, and the tree is found under them."""

    def next_token(request, ids):
        return 0 if chance(request.stream, len(ids)) < 0.1 else 97 + int(4 * chance("x", request.stream, len(ids)))

    def first_letter(text):
        return text.strip()[:1] or None

    more = {
        "tokenizer": Characters(), "engine": ScriptedEngine(next_token, Characters()), "extractor": first_letter,
        "settings": replace(SETTINGS, max_new_tokens=300),
    }  # fmt: skip
    for n, strategy in enumerate(("force:ignore=1,thinking=30,answer=8,n=2", "scrutinize:n=3,checks=2", "efforts:n=2",
                                  "refine:rounds=1,chains=2")):  # fmt: skip
        scorer = Constant() if strategy.startswith("refine") else None
        if scorer is not None:
            scorer.is_process = False
            scorer.score = lambda candidates: [0.5] * len(candidates)
        found = run_of(tmp_path / str(n), strategy, scorer, **more)
        again = {r.id: r for r in replay_strategy(tmp_path / str(n), tokenizer=Characters())}
        assert {q: told(r) for q, r in again.items()} == {q: told(r) for q, r in found.items()}, strategy
    with pytest.raises(NotStoredError, match="tokenizer"):
        list(replay_strategy(tmp_path / "1"))


def test_budgets_and_reading(tmp_path):
    """A budget that ended a search ends its replay at the same place; log-probabilities are nowhere stored."""
    found = run_of(tmp_path / "run", "beam:n=8,m=4", Oracle(), budget=Budget(tokens=20))
    assert all(r.tokens <= 20 and r.answer is None for r in found.values())
    again = {r.id: r for r in replay_strategy(tmp_path / "run")}
    assert {q: told(r) for q, r in again.items()} == {q: told(r) for q, r in found.items()}

    def reads(task):
        (path,) = yield Grow([task.ask(task.root, until=("\n\n",))], keep=[task.root])
        yield Read(path, [5])
        return Choice(path)

    with pytest.raises(NotStoredError, match="a run does not keep them"):
        list(replay_strategy(tmp_path / "run", reads))


def test_a_report_shows_them(tmp_path):
    """Best-of-n unasked at fewer texts; others where they are named; a refusal is a sentence beside the rest."""
    found = run_of(tmp_path / "run", "best:n=8", Oracle())
    page = report_of(tmp_path / "run")
    names = [row.strategy for row in page.strategies]
    assert names == ["best:n=8 (the run's own)", "best:n=8,how=vote", "best:n=4", "best:n=4,how=vote", "best:n=2",
                     "best:n=2,how=vote", "best:n=1", "best:n=1,how=vote"]  # fmt: skip
    right = sum(r.answer == "right" for r in found.values()) / len(ITEMS)
    assert page.strategies[0].accuracy == right
    assert page.strategies[0].difference == 0
    assert page.strategies[2].tokens == page.strategies[0].tokens / 2
    assert usual_strategies({"strategy": "beam:n=4,m=2"}) == usual_strategies({}) == []
    rows = rows_of(tmp_path / "run", ["best:n=9", "best:n=2"])
    assert "that would be path 9" in rows[0].refusal
    assert rows[1].refusal is None
    done = CliRunner().invoke(
        app, ["report", str(tmp_path / "run"), "--strategy", "best:n=2", "--strategy", "best:n=99"]
    )
    assert done.exit_code == 0, done.output
    assert "best:n=2" in done.output
    assert "that would be path 9" in " ".join(done.output.split())
    assert "Strategies, replayed on the same texts" in (tmp_path / "run" / "report.html").read_text()
    told_ = json.loads(CliRunner().invoke(app, ["report", str(tmp_path / "run"), "--json"]).stdout)
    assert [row["strategy"] for row in told_[0]["strategies"]] == names
    refused = CliRunner().invoke(app, ["report", str(tmp_path / "run"), "--strategy", "nosuch"])
    assert (refused.exit_code, "nosuch" in refused.output) == (2, True)


def test_a_damaged_tree(tmp_path):
    """A path whose parent is gone, and a question without its prompt."""
    run_of(tmp_path / "run", "beam:n=8,m=4", Oracle())
    path = tmp_path / "run" / "paths.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for gone, sentence in ((1, "continues one that is not there"), (0, "the prompt of question q0 is not in")):
        kept = [r for r in lines if not (r["question"] == "q0" and r["number"] == gone)]
        path.write_text("".join(json.dumps(r) + "\n" for r in kept))
        with pytest.raises(ValueError, match=sentence):
            list(replay_strategy(tmp_path / "run"))
