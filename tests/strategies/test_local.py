"""Methods over real tiny models: leg by leg on an engine that may not keep paths, from Python and from the commands."""

from __future__ import annotations

import json
from dataclasses import replace

import bigram
import pytest
import tiny
from plain import Letters
from typer.testing import CliRunner

import fastsample
from fastsample.cli import main
from fastsample.engines.local.engine import LocalEngine
from fastsample.evaluation.dataset import Item
from fastsample.evaluation.evaluate import evaluate
from fastsample.evaluation.report import report_of
from fastsample.strategies.question import Question, Settings

LINES = {**bigram.LINES, "\\": {"4": 1.0}}
BEAM = "beam:n=4,m=2,until=\\n,leg=8"
SCORER = "signal:raw_logprob"


@pytest.fixture(scope="module")
def lines():
    tokenizer = bigram.bigram_tokenizer()
    return bigram.bigram_model(tokenizer, LINES), tokenizer


def ask(lm, strategy, **more):
    more = {"max_new_tokens": 24, "extractor": r"regex:\d"} | more
    return fastsample.solve(*lm, "2 + 2?", strategy=strategy, **more)


def test_best_of_n_writes_the_samples_of_a_vote(lines):
    """Text by text and token by token, means included."""
    found, vote = (
        ask(lines, "best:n=6", scorer="exact:4"),
        ask(lines, "vote", rule="majority", temperatures=(0.8,), samples=6),
    )
    assert [s.token_ids for s in found.samples] == [s.token_ids for s in vote.samples]
    assert [(s.text, s.means, s.finish, s.answer) for s in found.samples] == [
        (s.text, s.means, s.finish, s.answer) for s in vote.samples
    ]
    assert found.answer == "4"


@pytest.mark.parametrize("strategy", ["beam:n=1,m=1,until=\\n,leg=8", "particles:n=1,until=\\n,leg=3"])
def test_one_path_is_a_plain_sample(lines, strategy):
    """Leg by leg, over delimiters, legs that are cut at their limit, and the end of the text."""
    for seed in range(4):
        found = ask(lines, strategy, seed=seed, scorer=f"sigmoid:{SCORER}")
        vote = ask(lines, "vote", temperatures=(0.8,), samples=1, seed=seed)
        assert [s.token_ids for s in found.samples] == [vote.samples[0].token_ids]
        assert found.samples[0].text == vote.samples[0].text
        assert found.tokens == vote.tokens


def test_legs_end_behind_their_delimiter(lines):
    """Each leg but the last holds one line break, at its end; white space alone makes no leg."""
    found = ask(lines, BEAM, scorer=SCORER)
    for path in found.paths:
        if path.parent is not None and path.finish == "until":
            assert path.text.endswith("\n")
            assert path.text.strip()
            assert path.text.lstrip().count("\n") == 1
        assert path.whole() == "".join(leg.text for leg in path.legs())
    assert {path.finish for path in found.paths} >= {"root", "until", "eos"}


def test_lookahead_passes_delimiters_by(lines):
    """Two legs at temperature 0 are one path with two line breaks, or at its end."""
    found = ask(lines, BEAM + ",lookahead=2", scorer=SCORER)
    ahead = [path for path in found.paths if path.parent is not None and path.temperature == 0]
    assert ahead
    assert all(path.text.lstrip().count("\n") == 2 or path.finish != "until" for path in ahead)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2"])
def test_a_result_does_not_depend_on_slots_and_neighbours(name):
    """On models whose output depends on the cache: the same tree alone, and beside others in 2 or 16 slots."""
    model, tokenizer = tiny.tiny(name), Letters()
    settings = Settings(max_new_tokens=12)
    questions = [Question(str(n), str(n), prompt=(1, 5 + n, 9, 11)) for n in range(4)]
    trees = []
    for asked, slots in ((questions[2:3], 16), (questions, 2), (questions, 16)):
        found = fastsample.solve_many(
            model, tokenizer, asked, settings=settings, scorer=SCORER, strategy="beam:n=4,m=2,until=,leg=4,how=best",
            extractor=lambda text: text, engine=LocalEngine(model, tokenizer, slots=slots, prepack=True),
        )  # fmt: skip
        (mine,) = [r for r in found if r.id == "2"]
        assert mine.error is None
        trees.append([(p.tokens, p.stream, p.finish, p.fate) for p in mine.paths])
    assert trees[0] == trees[1] == trees[2]
    assert len(trees[0]) > 8


def test_thinking_is_prolonged_on_a_model_without_an_end_of_thinking(lines):
    """What the model wrote before its end is kept, Wait stands behind it, and it goes on."""
    prolonged = 0
    for seed in range(4):
        found = ask(lines, "force:ignore=1,answer=4,thinking=20,temperature=0.8", seed=seed)
        for path in found.paths:
            if path.appended == 4:
                prolonged += 1
                assert path.text.startswith("Wait")
                assert path.parent.finish == "eos"
                assert found.text.startswith(path.parent.text + "Wait")
    assert prolonged


@pytest.fixture
def folder(tmp_path):
    return str(bigram.save_folder(tmp_path / "model", LINES))


def run(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


OPTIONS = ("--max-new-tokens", 24, "--extractor", r"regex:\d", "--strategy", BEAM, "--scorer", SCORER)


def test_the_command_grows_a_tree(folder, lines):
    """For people: answer, paths and cost; as JSON: the tree of the same question in Python."""
    done = run("solve", "2 + 2?", "-m", folder, *OPTIONS)
    assert done.exit_code == 0, done.output
    found = ask(lines, BEAM, scorer=SCORER)
    assert f"answer  {found.answer}  " in done.output
    assert f"{found.legs} legs in {found.rounds} rounds" in done.output
    record = json.loads(run("solve", "2 + 2?", "-m", folder, *OPTIONS, "--json").stdout)
    assert [path["tokens"] for path in record["paths"]] == [list(path.tokens) for path in found.paths]
    assert (record["strategy"], record["scorer"]) == (BEAM.replace("\n", "\\n"), SCORER)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--strategy", "beam:n=10,m=4"], "n must be a multiple of m, got n=10, m=4; n=8 or n=12"),
        (["--strategy", "beam"], "beam needs a scorer, got none"),
        (
            ["--strategy", "beam", "--scorer", "exact:4"],
            "beam scores unfinished paths and exact:4 judges",
        ),
        (["--strategy", "weighted", "--scorer", "mean-logprob"], "weighted votes need scores in [0, 1]"),
        (["--strategy", "particles", "--scorer", SCORER], "particles need scores in [0, 1], signal:raw_logprob gives"),
        (["--strategy", "climb"], "no strategy is called 'climb'; there are vote, best"),
        (["--strategy", "best:x=1"], "best knows n=16, how=best"),
        (["--strategy", "omega:leg=8"], r"omega knows k=8, searches=4, until=\n\n, temperature=0.8"),
        (["--strategy", "best:n=many"], "best's n is a whole number, got 'many'"),
        (["--budget", "5"], "--budget is for strategies that grow texts"),
        (["--strategy", "best", "--scorer", "exact:4", "--budget", "0"], "a budget's tokens must be at least 1, got 0"),
        (["--strategy", "force:effort=huge"], "effort must be one of low, medium, high"),
    ],
)
def test_bad_use_is_one_sentence_before_a_model_is_loaded(options, sentence):
    """Exit code 2 and no traceback; the model that is named is not there."""
    for command in (["solve", "2 + 2?"], ["evaluate", "-", "-o", "nowhere"]):
        done = CliRunner().invoke(
            main, [*command, "-m", "no-such-model", *options], input='{"question": "1?", "answer": 1}'
        )
        assert done.exit_code == 2
        assert sentence in " ".join(done.stderr.split()), done.stderr


def test_a_run_keeps_its_trees_and_is_gone_on_with(lines, tmp_path):
    """paths.jsonl has every leg; a run whose last questions were lost comes to the same files."""
    items = [Item(str(n), f"{n} + 2?", "4") for n in range(4)]
    settings = Settings(max_new_tokens=24)
    more = {"settings": settings, "extractor": r"regex:\d", "strategy": BEAM, "scorer": SCORER}
    evaluate(*lines, items, tmp_path / "run", **more)

    def stored(name):
        records = [json.loads(line) for line in (tmp_path / "run" / name).read_text().splitlines()]
        return [{k: v for k, v in r.items() if k not in ("seconds", "steps")} for r in records]

    paths, results = stored("paths.jsonl"), stored("results.jsonl")
    assert sum(r["legs"] for r in results) == sum(p["parent"] is not None for p in paths)
    with open(tmp_path / "run" / "results.jsonl", "r+") as file:
        file.truncate(len(file.readline()))
    again = evaluate(*lines, items, tmp_path / "run", **more, resume=True)
    assert again.answered == 3
    by_id = sorted(stored("results.jsonl"), key=lambda r: r["id"])
    assert by_id == sorted(results, key=lambda r: r["id"])
    known = {json.dumps(p): None for p in stored("paths.jsonl")}
    assert list(known) == [json.dumps(p) for p in paths]
    with pytest.raises(ValueError, match="strategy"):
        evaluate(*lines, items, tmp_path / "run", **{**more, "strategy": "dvts"}, resume=True)


@pytest.mark.parametrize("strategy", [BEAM, BEAM + ",lookahead=2", "mcts:rounds=6,m=2,parallel=2,until=\\n,leg=8"])
def test_paths_that_are_kept_and_paths_that_are_read_again_are_the_same(lines, strategy):
    """An engine that keeps paths reads the prompt once; the same engine, said to keep none, reads every leg again."""
    trees, read = [], []
    for parks in (True, False):
        engine = LocalEngine(*lines)
        if not engine.traits.parks:
            pytest.skip("this engine keeps no paths")
        engine.traits = replace(engine.traits, parks=parks)
        found = ask(lines, strategy, scorer=SCORER, engine=engine)
        trees.append([(p.tokens, p.text, p.stream, p.finish, p.fate, p.answer) for p in found.paths])
        read.append(engine.prefill_tokens)
        assert found.reread is not parks
    assert trees[0] == trees[1]
    assert read[0] == found.prompt_tokens < read[1]


def test_a_given_text_is_read_where_the_engine_can(lines):
    """refine by log-probability: on an engine that cannot read given texts, a sentence with the remedy."""
    engine = LocalEngine(*lines)
    engine.traits = replace(engine.traits, parks=False)
    with pytest.raises(ValueError, match="cannot say how likely a given text is; use an engine that keeps paths"):
        ask(lines, "refine:rounds=1", engine=engine)
    engine = LocalEngine(*lines)
    if not engine.traits.parks:
        pytest.skip("this engine keeps no paths")
    found = ask(lines, "refine:rounds=1,score=logprob,patience=2", engine=engine)
    draft = found.samples[0]
    again = float(found.reason.rpartition("scores ")[2].split(",")[0])
    assert again == pytest.approx(draft.means.raw_logprob, abs=2.0)  # without the end of the text, encoded anew


def test_the_report_of_a_run_of_trees(lines, tmp_path):
    """Coverage, choice and the gap between them: a key that some path finds and the chosen one misses."""
    items = [Item(str(n), f"{n} + 2?", "5") for n in range(6)]
    more = {"settings": Settings(max_new_tokens=24), "extractor": r"regex:\d"}
    evaluate(*lines, items, tmp_path / "wrong", **more, strategy="best:n=6", scorer="exact:4")
    evaluate(*lines, items, tmp_path / "right", **more, strategy="best:n=6", scorer="exact:5")
    wrong, right = (report_of(tmp_path / name) for name in ("wrong", "right"))
    assert wrong.search["coverage"] == right.search["coverage"] == right.search["choice"] > 0
    assert wrong.search["choice"] < right.search["choice"]
    assert wrong.search["gap"] == pytest.approx(right.search["choice"] - wrong.search["choice"])
    assert wrong.search["legs"] == 6
    assert "always knew would gain" in " ".join(run("report", tmp_path / "wrong").output.split())
