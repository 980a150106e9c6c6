"""A table of strategies by difficulty: against tables made by hand, and the strategy that reads one."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from statistics import fmean

import pytest
from stored_run import keep, settings, written
from typer.testing import CliRunner
from world import Constant, Noisy, Oracle, Tokens, answer, world

from fastsample.cli import main as app
from fastsample.evaluation.allocation import allocate
from fastsample.evaluation.dataset import Item, RunError
from fastsample.evaluation.evaluate import evaluate
from fastsample.evaluation.stored import read_paths, read_results, read_samples
from fastsample.solving.solve import solve, solve_many
from fastsample.strategies.allocated import Table
from fastsample.strategies.plan import plan_of
from fastsample.strategies.question import Question, Settings

LONG, SHORT = 10, 2  # tokens of a sample


def run_of(folder, temperatures=(0.4, 0.8), samples=8):
    """24 easy questions on which all samples are right; 24 on which 0.8 is right and 0.4 says one of many."""
    items = [Item(f"q{n:02}", f"question {n}", "1") for n in range(48)]
    kept = {}
    for n, item in enumerate(items):
        kept[item.id] = [
            written(
                number, t, k, "x", "1" if n % 2 == 0 or t == 0.8 else str(7 + k), tokens=SHORT if t == 0.4 else LONG
            )
            for number, (t, k) in enumerate(plan_of(temperatures, samples))
        ]
    return keep(folder, items, kept, settings(temperatures, samples))


def test_the_table_is_what_a_person_would_choose(tmp_path):
    """Where all agree a vote of two is enough; where half agree, 0.8 alone is right, for its price."""
    found = allocate([run_of(tmp_path / "run")], k=2)
    assert (found.auto.accuracy, found.auto.in_sample, found.single.accuracy) == (1.0, 1.0, 1.0)
    # In turn 0.4, 0.8: two samples agree on easy questions, and tie, for 0.4, on hard ones.
    assert found.table.strategies[-1] == "best:n=2,how=vote,temperatures=0.4/0.8"
    # One more at 0.8 decides: the first two are a part of its vote, whose temperature is another.
    assert found.table.strategies[0] == "best:n=3,how=vote,temperatures=0.8"
    easy, hard = SHORT + LONG, 22
    assert found.auto.tokens == pytest.approx((easy + hard) / 2)
    (cell,) = (c for c in found.cells if (c.strategy, c.bin) == (found.table.strategies[0], "easy"))
    assert (cell.accuracy, cell.tokens) == (1.0, easy + LONG)


def test_the_budget_is_kept_and_told(tmp_path):
    folder = run_of(tmp_path / "run")
    with pytest.raises(ValueError, match="no strategy keeps to 3 tokens a question; the least takes 12"):
        allocate([folder], k=2, budget=3)
    found = allocate([folder], k=2, budget=13)
    assert {cell.tokens <= 13 for cell in found.cells if cell.is_chosen} == {True}
    assert found.single_name in ("best:n=1,how=vote,temperatures=0.8",)


def test_two_folds_show_the_flattery(tmp_path):
    """Answers by chance: what was chosen looks better where it was chosen."""
    rng = random.Random(0)
    items = [Item(f"q{n:02}", f"question {n}", "1") for n in range(60)]
    kept = {
        item.id: [
            written(number, t, k, "x", rng.choice("12"), tokens=3)
            for number, (t, k) in enumerate(plan_of((0.4, 0.8, 1.2), 8))
        ]
        for item in items
    }
    found = allocate([keep(tmp_path / "run", items, kept, settings((0.4, 0.8, 1.2), 8))], k=4)
    assert found.auto.in_sample > found.auto.accuracy
    low, high = found.difference[1:]
    assert low <= found.difference[0] <= high
    oracle = allocate([tmp_path / "run"], difficulty="oracle")
    shares = [fmean(s.answer == "1" for s in kept[i.id]) for i in items]
    assert {c.bin: c.questions for c in oracle.cells} == {
        name: n
        for name, n in (
            ("hard", sum(s < 0.1 for s in shares)),
            ("medium", sum(0.1 <= s < 0.5 for s in shares)),
            ("easy", sum(s >= 0.5 for s in shares)),
        )
        if n
    }


def table(path, strategies, edges=(0.5,), k=4, temperatures=(0.8,)):
    path.write_text(json.dumps(Table(k, temperatures, edges, strategies).to_json()))
    return f"auto:table={path}"


@pytest.mark.parametrize(("edge", "text"), [(0.0, "best:n=12,how=vote"), (1.1, "beam:n=8,m=4")])
def test_auto_is_the_strategy_of_the_table(tmp_path, edge, text):
    """A vote's first samples are its own: the same answer, votes and tokens. A beam costs the first samples more."""
    auto = table(tmp_path / "t.json", ("beam:n=8,m=4", "best:n=12,how=vote"), (edge,))
    more = {"extractor": answer, "scorer": Oracle(), "max_new_tokens": 40}
    for question in ("3", "8"):
        plain = solve(None, Tokens(), question, strategy=text, engine=world(0.7), **more)
        found = solve(None, Tokens(), question, strategy=auto, engine=world(0.7), **more)
        assert found.reason.startswith(f"{text} (")
        if text.startswith("best"):
            assert (found.answer, found.tokens) == (plain.answer, plain.tokens)
            assert {s.text for s in found.samples} == {s.text for s in plain.samples}
        else:
            assert found.tokens > plain.tokens / 2
            assert len(found.samples) >= 5
            assert all(path.scores for path in found.paths if path.is_candidate and path.answer is not None)


class Whole:
    """Likes a text that was written at once: in a tree these are the first samples alone."""

    name = "whole"
    is_process = is_probability = True
    sign = 1

    def score(self, candidates):
        return [(float((len(c.legs) == 1) == (self.sign > 0)),) * len(c.legs) for c in candidates]


@pytest.mark.parametrize(
    "text", ["beam:n=8,how=best", "dvts:n=8,how=best", "mcts:rounds=40,m=2,how=best", "particles:n=8,how=best"]
)
def test_the_first_samples_are_candidates_of_a_search(tmp_path, text):
    """Where their scores are the highest one of them is chosen, and where they are the lowest none is."""
    auto = table(tmp_path / "t.json", (text, text))
    for sign in (1, -1):
        scorer = Whole()
        scorer.sign = sign
        found = solve(None, Tokens(), "3", strategy=auto, engine=world(0.7), extractor=answer, scorer=scorer,
                      max_new_tokens=40)  # fmt: skip
        first = [path.whole() for path in found.paths if path.depth == 1 and path.is_final]
        assert len(first) == 4
        assert (found.text in first) == (sign > 0)
        assert found.answer == answer(found.text)


def test_auto_pays_what_its_table_says(tmp_path):
    """Of a run of two temperatures: a vote of the table, as `auto` draws it, is right as often and costs as much."""
    items = [Item(f"q{n}", str(n), "right") for n in range(12)]
    more = {"extractor": answer, "named": {"model": "world", "dtype": None}}
    evaluate(None, Tokens(), items, tmp_path / "run", settings=Settings((0.4, 0.8), 12, max_new_tokens=40),
             engine=world(0.8, depth=3), **more)  # fmt: skip
    cells = [c for c in allocate([tmp_path / "run"], k=4).cells if c.strategy.startswith("best:n=")]
    names = {c.strategy for c in cells}
    assert {"best:n=6,how=vote,temperatures=0.8", "best:n=8,how=vote,temperatures=0.4/0.8"} <= names
    for name in sorted(names)[::3]:
        auto = table(tmp_path / "t.json", (name, name), (0.5,), temperatures=(0.4, 0.8))
        done = list(solve_many(
            None, Tokens(), [Question(i.question, i.id) for i in items], settings=Settings(max_new_tokens=40),
            extractor=answer, strategy=auto, engine=world(0.8, depth=3), is_strict=True,
        ))  # fmt: skip
        mine = [c for c in cells if c.strategy == name]
        assert sum(c.tokens * c.questions for c in mine) == pytest.approx(sum(r.tokens for r in done))
        right = sum(r.answer == "right" for r in done)
        assert sum(c.accuracy * c.questions for c in mine) == pytest.approx(right)


def test_scored_texts_behind_the_first_ones(tmp_path):
    """The best of four first samples and eight at another temperature: as often right, and as dear, as its table says;
    of a beam, which then writes other legs, its choice among its own and the first samples."""
    items = [Item(f"q{n}", str(n), "right") for n in range(40)]
    more = {"extractor": answer, "named": {"model": "world", "dtype": None}, "scorer": Noisy(0.3)}
    here = {"max_new_tokens": 40, "temperatures": (0.4,), "samples": 8}
    evaluate(None, Tokens(), items, tmp_path / "votes", settings=Settings(**here), engine=world(0.6, depth=4), **more)
    names = ("best:n=12", "weighted:n=12", "beam:n=4,how=best")
    for name in names:
        evaluate(None, Tokens(), items, tmp_path / name[:4], settings=Settings(max_new_tokens=40), strategy=name,
                 engine=world(0.6, depth=4), **more)  # fmt: skip
    cells = allocate([tmp_path / "votes", *(tmp_path / name[:4] for name in names)], k=4).cells
    shares = {name: sum(c.accuracy * c.questions for c in cells if c.strategy == name) for name in names}
    for name in names[:2]:
        auto = table(tmp_path / "t.json", (name, name), temperatures=(0.4,))
        done = list(solve_many(
            None, Tokens(), [Question(i.question, i.id) for i in items], settings=Settings(max_new_tokens=40),
            extractor=answer, strategy=auto, engine=world(0.6, depth=4), scorer=Noisy(0.3), is_strict=True,
        ))  # fmt: skip
        spent = sum(c.tokens * c.questions for c in cells if c.strategy == name)
        assert spent == pytest.approx(sum(r.tokens for r in done))
        assert shares[name] == pytest.approx(sum(r.answer == "right" for r in done))
    first: dict[str, list] = {}
    for q, s in read_samples(tmp_path / "votes"):
        if s.k < 4 and s.answer is not None:
            first.setdefault(q, []).append((s.score, s.answer))
    texts = {i.id: list(first.get(i.id, [])) for i in items}
    for path in sorted(read_paths(tmp_path / "beam"), key=lambda path: path["number"]):
        if path["answer"] is not None:
            texts[path["question"]].append((path["scores"][-1], path["answer"]))
    right = [max(mine, key=lambda text: text[0])[1] == "right" for mine in texts.values()]
    alone = [r["is_right"] for r in read_results(tmp_path / "beam")]
    assert shares[names[2]] == pytest.approx(sum(right))
    assert sum(right) != sum(alone)  # or the first samples would show nowhere


def test_predicted_difficulty(tmp_path):
    """The mean score of the first samples, by a scorer that knows: hard where it is low; the table remembers whose."""
    items = [Item(f"q{n:02}", f"question {n}", "1") for n in range(30)]
    kept = {}
    for n, item in enumerate(items):  # nobody agrees anywhere; the scores say which third a question is of
        plan = enumerate(plan_of((0.8,), 8))
        kept[item.id] = [replace(written(i, t, k, "x", str(k + 2)), score=n % 3 / 2) for i, (t, k) in plan]
    folder = keep(tmp_path / "run", items, kept, settings((0.8,), 8, scorer="oracle"))
    found = allocate([folder], k=4, difficulty="predicted")
    assert found.table.edges == (0.0 + 1 / 3, 0.5 + 1 / 3) or found.table.edges[0] <= 0.5 < found.table.edges[1] <= 1
    assert (found.table.difficulty, found.table.scorer) == ("predicted", "oracle")
    assert sum(c.questions for c in found.cells if c.is_chosen) == 30
    with pytest.raises(ValueError, match="has no scores; run evaluate with --scorer"):
        allocate([run_of(tmp_path / "plain")], k=2, difficulty="predicted")
    path = tmp_path / "t.json"
    made = Table(4, (0.8,), (0.5,), ("beam:n=8,m=4", "best:n=4,how=vote"), "predicted", "oracle")
    path.write_text(json.dumps(made.to_json()))
    assert Table.of_file(str(path)) == made
    more = {"extractor": answer, "max_new_tokens": 40, "strategy": f"auto:table={path}"}
    for p, text in ((0.2, "beam:n=8,m=4"), (1.0, "best:n=4,how=vote")):
        done = solve(None, Tokens(), "3", engine=world(p), scorer=Oracle(), **more)
        assert done.reason.startswith(f"{text} (a mean score of {p // 1:g})")
    for scorer, part in (
        (None, "needs a scorer, got none"),
        (Constant(), "fitted on scores of oracle, got the scorer"),
    ):
        with pytest.raises(ValueError, match=part):
            solve(None, Tokens(), "3", engine=world(0.5), scorer=scorer, **more)


def test_auto_beside_others_and_without_a_table():
    """The same alone and beside seven others; without a table the reason says that nothing was fitted."""
    asked = [Question(str(n), str(n)) for n in range(8)]
    for scorer, hard in ((Constant(), "beam:n=16,m=4"), (None, "best:n=16,how=vote")):
        run = solve_many(
            None, Tokens(), asked, settings=Settings(max_new_tokens=40), extractor=answer, scorer=scorer,
            strategy="auto", engine=world(0.6, slots=5), is_strict=True,
        )  # fmt: skip
        together = {r.id: r for r in run}
        alone = solve(
            None, Tokens(), "3", extractor=answer, scorer=scorer, strategy="auto", engine=world(0.6), max_new_tokens=40
        )
        assert (alone.answer, alone.tokens, alone.reason) == (
            together["3"].answer, together["3"].tokens, together["3"].reason
        )  # fmt: skip
        assert all("no table fitted" in r.reason for r in together.values())
        assert any(r.reason.startswith(hard) for r in together.values())


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "cannot be read"),
        ("{", "is no table of fastsample allocate"),
        ('{"format": 1}', "'temperatures' is missing"),
        ('{"format": 1, "k": 4, "temperatures": [0.8], "edges": [0.5], "strategies": ["best"]}', "one strategy more"),
        ('{"format": 1, "k": 4, "temperatures": [0.8], "edges": [], "strategies": ["auto"]}', "that grow texts"),
        ('{"format": 1, "k": 4, "temperatures": [0.8], "edges": [], "strategies": ["bst"]}', "no strategy is called"),
        ('{"format": 1, "k": 4, "temperatures": [0.8], "edges": [], "strategies": ["beam"]}', "needs a scorer"),
    ],
)
def test_bad_tables_are_told_before_a_model_is_loaded(tmp_path, content, part):
    path = tmp_path / "t.json"
    if content is not None:
        path.write_text(content)
    said = CliRunner().invoke(app, ["solve", "1 + 1?", "--strategy", f"auto:table={path}"])
    assert said.exit_code == 2
    assert part in " ".join(said.output.split())


def test_bad_runs(tmp_path):
    folder = run_of(tmp_path / "run")
    with pytest.raises(ValueError, match="k is 99"):
        allocate([folder], k=99)
    with pytest.raises(ValueError, match="difficulty must be one of"):
        allocate([folder], difficulty="easy")
    with pytest.raises(RunError, match="holds no run"):
        allocate([tmp_path])
    cold = keep(tmp_path / "cold", [Item("a", "b", "1")], {"a": [written(0, 0.0, 0, "1", "1")]}, settings((0.0,), 1))
    with pytest.raises(RunError, match=r"no whole budget above temperature 0"):
        allocate([cold])


def test_the_command(tmp_path):
    folder, target = run_of(tmp_path / "run"), tmp_path / "t.json"
    said = CliRunner().invoke(app, ["allocate", str(folder), "-k", "2", "--table", str(target)])
    assert said.exit_code == 0, said.output
    assert "right on the half that it was not chosen on" in " ".join(said.output.split())
    assert Table.of_file(str(target)) == allocate([folder], k=2).table
    found = json.loads(CliRunner().invoke(app, ["allocate", str(folder), "-k", "2", "--json"]).stdout)
    assert found["auto"]["accuracy"] == 1.0
    refused = CliRunner().invoke(app, ["allocate", str(folder), "--difficulty", "oracle", "--table", str(target)])
    assert (refused.exit_code, "agreement" in refused.output) == (2, True)
