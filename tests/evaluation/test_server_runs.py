"""A run over servers: one folder format, gone on with after any stop, nothing asked twice that was stored."""

from __future__ import annotations

import json

import pytest
from hostile import Hostile

from fastsample import Settings, evaluate
from fastsample.engines.openai.engine import ServerEngine
from fastsample.engines.openai.pool import Patience
from fastsample.evaluation.dataset import Item, RunError
from fastsample.evaluation.report import report_of

ITEMS = [Item(str(n), f"question {n}?", "4") for n in range(6)]
SETTINGS = Settings((0.5,), 3, max_new_tokens=20)


def run(engine, folder, **changes):
    given = {"settings": SETTINGS, "engine": engine, "extractor": "number"} | changes
    return evaluate(None, engine.tokenizer, ITEMS, folder, **given)


def test_a_run_is_gone_on_with(tmp_path):
    """After a stop in the middle: what is stored is not asked for again; the report replays it."""
    with Hostile() as server, ServerEngine([server.url], slots=4) as engine:  # so that not all is asked by then
        stopped = []

        def stop(result, is_right):
            stopped.append(result.id)
            if len(stopped) == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(engine, tmp_path / "run", on_result=stop)
        asked = len(server.asked)
        found = run(engine, tmp_path / "run", resume=True)
        assert (found.done, found.failed) == (6, 0)
        assert found.answered <= 3
        assert len(server.asked) <= 6 * 3 + 9  # what was open when it stopped, once more
        assert len(server.asked) > asked
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert {k: config[k] for k in ("engine", "engine_model", "draws", "certainty", "model")} == {
        "engine": "openai", "engine_model": "words", "draws": "free", "certainty": "none", "model": "",
    }  # fmt: skip
    text = "".join(path.read_text() for path in (tmp_path / "run").iterdir())
    assert server.url not in text
    page = report_of(tmp_path / "run")
    assert page.complete == 6
    assert not [row.rule for row in page.rows if row.rule.startswith(("confidence", "weighted"))]


def test_another_engine_is_refused(tmp_path):
    """A run's samples are of one kind of engine and one model."""
    with Hostile() as server, ServerEngine([server.url]) as engine:
        run(engine, tmp_path / "run")
    with Hostile(models=("other",)) as server, ServerEngine([server.url]) as engine:
        words = "engine_model: 'words' in the run, 'other' now"
        with pytest.raises(RunError, match=words):
            run(engine, tmp_path / "run", resume=True)


def test_a_rule_that_does_not_fit_makes_no_folder(tmp_path):
    """Refused before anything is written."""
    with Hostile() as server, ServerEngine([server.url]) as engine:
        rule = Settings(rule="confidence")
        with pytest.raises(ValueError, match="the rule confidence needs"):
            run(engine, tmp_path / "run", settings=rule)
    assert not (tmp_path / "run").exists()


def test_failed_questions_are_asked_again(tmp_path):
    """A server that gives out for a while: its questions end with an error, and --resume asks them alone."""
    is_broken = [True]
    broken = Hostile(lambda body, _: "503" if is_broken[0] and "question 2" in str(body) else None)
    with broken as server, ServerEngine([server.url], patience=Patience(retries=1, again=(0.0, 0.0))) as engine:
        first = run(engine, tmp_path / "run")
        assert (first.answered, first.failed) == (5, 1)
        is_broken[0], before = False, len(server.asked)
        assert run(engine, tmp_path / "run", resume=True).done == 6
        assert {"question 2" in str(body) for body in server.asked[before:]} == {True}
