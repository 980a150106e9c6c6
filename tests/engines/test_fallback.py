"""A model that is not served by the fastest runner says so: which one, why and what it costs, once."""

from __future__ import annotations

import json
import warnings

import bigram
import pytest
from tiny import tiny
from typer.testing import CliRunner

import fastsample
from fastsample.cli import main
from fastsample.engines.local import selection
from fastsample.engines.local.engine import LocalEngine
from fastsample.fallback import FallbackWarning
from fastsample.models import compat

ASK = ["2 + 2?", "--temperatures", "1", "--samples", "2", "--max-new-tokens", "8"]


def first_letter(text):
    return text[0] if text else None


@pytest.fixture
def unknown_cache(monkeypatch):
    """A release of transformers that calls its cache by another name."""
    monkeypatch.setattr(compat, "CACHE_NAMES", ("a_name_of_the_past",))


def test_nothing_is_said_of_the_fastest():
    """The shared prefix needs no words."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine = LocalEngine(tiny("llama"), None)
    assert (engine.traits.name, engine.traits.reason) == ("shared-prefix", None)


@pytest.mark.parametrize(
    ("name", "runner"), [("llama4_text", "expanded-cache"), ("bloom", "expanded-cache"), ("mamba", None)]
)
def test_a_warning_says_which_why_and_what_it_costs(name, runner):
    """One sentence, the first time that a model is met, and never again for that model."""
    model = tiny(name)
    with pytest.warns(FallbackWarning) as told:
        engine = LocalEngine(model, None)
    (sentence,) = {str(w.message) for w in told}
    assert sentence == engine.traits.reason
    assert f"{type(model).__name__} is served by {engine.traits.name}: " in sentence
    assert engine.runner.cost in sentence
    assert selection.why_not(model) in sentence
    assert runner in (None, engine.traits.name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LocalEngine(model, None)


def test_a_cache_by_an_unknown_name_is_read_again_and_said(unknown_cache):
    """No release's new name ends in a traceback or in wrong tokens: the last rung serves, with the reason."""
    tokenizer = bigram.bigram_tokenizer()
    model = bigram.bigram_model(tokenizer)
    with pytest.warns(FallbackWarning, match="is served by recompute.*by a name that this package does not know"):
        result = fastsample.solve(model, tokenizer, "2 + 2?", temperatures=(0.0,), extractor=first_letter)
    assert result.answer == "4"
    assert result.engine == "recompute"
    assert "every token costs a reading of the whole text" in result.engine_reason


def test_solve_says_it_before_the_first_token_and_in_json(unknown_cache, tiny_folder):
    """A line for people on standard error, two fields for programs."""
    done = CliRunner().invoke(main, ["solve", *ASK, "-m", str(tiny_folder), "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["engine"] == "recompute"
    assert record["engine_reason"] in done.stderr.replace("\n", "")
    said, first = done.stderr.index("is served by recompute"), done.stderr.index("sample 1")
    assert said < first


def test_evaluate_keeps_it_in_the_settings_and_the_report_shows_it(unknown_cache, tiny_folder, tmp_path):
    """A line, two settings of the run, and a place on the page."""
    questions, run = tmp_path / "q.jsonl", tmp_path / "run"
    questions.write_text('{"question": "2 + 2?", "answer": "4"}\n')
    options = ["--temperatures", "1", "--samples", "2", "--max-new-tokens", "8", "-m", str(tiny_folder)]
    done = CliRunner().invoke(main, ["evaluate", str(questions), "-o", str(run), *options])
    assert done.exit_code == 0, done.output
    assert "is served by recompute" in done.stderr
    config = json.loads((run / "config.json").read_text())
    assert config["engine"] == "recompute"
    assert "is served by recompute" in config["engine_reason"]
    done = CliRunner().invoke(main, ["report", str(run)])
    assert done.exit_code == 0, done.output
    assert "recompute" in done.output
    assert "is served by recompute" in (run / "report.html").read_text()


def test_info_and_plan_say_it_without_generating(unknown_cache, tiny_folder):
    """The question can be asked before anything is written."""
    done = CliRunner().invoke(main, ["info", "--model", str(tiny_folder), "--json"])
    assert json.loads(done.stdout)["model"]["engine"] == "recompute"
    done = CliRunner().invoke(main, ["plan", "--model", str(tiny_folder)])
    assert done.exit_code == 0, done.output
    assert "by a name that this package does not know" in done.stderr + done.stdout


def test_a_run_is_not_gone_on_with_by_another_engine(tiny_folder, tmp_path, monkeypatch):
    """Rounding differs between engines, so that a run keeps the one that it began with."""
    questions, run = tmp_path / "q.jsonl", tmp_path / "run"
    questions.write_text('{"question": "2 + 2?", "answer": "4"}\n')
    options = ["--temperatures", "1", "--samples", "2", "--max-new-tokens", "8", "-m", str(tiny_folder)]
    assert CliRunner().invoke(main, ["evaluate", str(questions), "-o", str(run), *options]).exit_code == 0
    monkeypatch.setattr(compat, "CACHE_NAMES", ("a_name_of_the_past",))
    done = CliRunner().invoke(main, ["evaluate", str(questions), "-o", str(run), *options, "--resume"])
    assert done.exit_code == 2
    assert "engine: 'shared-prefix' in the run, 'recompute' now" in done.stderr
