"""Votes over any engine: what they need of it, what they do without torch, and what becomes of failed samples."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hostile import Hostile

from fastsample import Question, Settings, solve, solve_many
from fastsample.engines.base import Traits
from fastsample.engines.openai.engine import ServerEngine
from fastsample.engines.openai.pool import Patience
from fastsample.scoring.verifiers import scorer_of
from fastsample.solving.fit import fitted

ROOT = Path(__file__).parent.parent.parent
BLOCKED = """
import sys
for name in ("torch", "transformers", "numpy"):
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
sys.path.insert(0, "tests/helpers")
import fastsample
from hostile import Hostile
from fastsample.engines.base import Engine, Request, Sample
from fastsample.engines.openai.engine import ServerEngine
with Hostile() as server, ServerEngine([server.url]) as engine:
    result = fastsample.solve(
        None, engine.tokenizer, "2 + 2?", temperatures=(0.5,), samples=9, rule="ahead:k=3", engine=engine,
        extractor=lambda text: "4", together=False,
    )
print(result.answer, result.counted, result.engine, result.prompt_tokens, result.tokens)
"""


def test_a_vote_over_a_server_needs_neither_torch_nor_transformers():
    """Both are blocked; the vote ends early."""
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["4", "3", "openai", "7", "21"], done.stderr


def test_what_an_engine_lacks_is_said_by_name():
    """A rule or a scorer that needs what the engine does not tell; and what it tells is enough."""
    none, top = Traits("llama.cpp", "m", certainty="none"), Traits("llama.cpp", "m", certainty="top20")
    for rule, word in (("confidence", "self_certainty"), ("weighted:by=entropy", "entropy")):
        with pytest.raises(
            ValueError, match=f"the rule {rule} needs the {word} of every token, and the engine llama.cpp"
        ):
            fitted(Settings(rule=rule), none)
    with pytest.raises(ValueError, match="--logprobs"):
        fitted(Settings(rule="confidence"), none)
    with pytest.raises(ValueError, match="the scorer mean-logprob needs"):
        fitted(Settings(), top, scorer_of("mean-logprob"))
    fitted(Settings(rule="confidence"), top)
    fitted(Settings(rule="weighted:by=score"), none)
    for rule in ("confidence", "weighted:by=entropy"):
        fitted(Settings(rule=rule), Traits("shared-prefix", "m"), scorer_of("mean-logprob"))


def test_where_nothing_can_be_stopped_samples_start_in_waves():
    """What was started would be written to its end."""
    assert not fitted(Settings(together=True), Traits("x", "m", cancels="none")).together
    assert fitted(Settings(together=True), Traits("x", "m", cancels="group")).together


def test_a_refusal_comes_before_the_first_request():
    """By solve, with a real engine."""
    with Hostile() as server, ServerEngine([server.url]) as engine:
        with pytest.raises(ValueError, match="the rule confidence needs"):
            solve(None, engine.tokenizer, "2 + 2?", rule="confidence", engine=engine)
        assert server.asked == []


def test_a_failed_sample_ends_its_question_alone():
    """With the server's words; the others are answered, and nothing of it is left open."""
    bad = Hostile(lambda body, _: "400" if "bad" in str(body) else None)
    with bad as server, ServerEngine([server.url], patience=Patience(again=(0.0, 0.0))) as engine:
        settings = Settings((0.5,), 4)
        questions = [Question(text, text) for text in ("one", "bad", "two")]
        found = {r.id: r for r in solve_many(
            None, engine.tokenizer, questions, settings=settings, engine=engine, extractor=lambda text: "4"
        )}  # fmt: skip
        assert {r.status for r in found.values() if r.id != "bad"} == {"budget"}
        assert found["bad"].status == "error"
        assert found["bad"].error == f"ValueError: {server.url} answered 400: no such thing"
        assert engine.is_idle


def test_pieces_come_as_events():
    """A vote over a server shows its texts as they come."""
    with Hostile() as server, ServerEngine([server.url]) as engine:
        pieces = []
        result = solve(
            None, engine.tokenizer, "2 + 2?", temperatures=(0.5,), samples=2, engine=engine,
            on_event=lambda event: pieces.append((event.number, event.piece)) if event.kind == "token" else None,
        )  # fmt: skip
        for sample in result.samples:
            assert "".join(piece for number, piece in pieces if number == sample.number) == sample.text
            assert sample.token_ids == ()


def test_methods_over_a_server():
    """What writes whole texts works; what continues a text by its token ids is refused before the first request."""
    with Hostile() as server, ServerEngine([server.url]) as engine:
        given = {"settings": Settings((0.7,), 4, max_new_tokens=20), "engine": engine, "extractor": "number"}
        ask = partial(solve_many, None, engine.tokenizer, ["2 + 2?"], **given)
        (best,) = ask(strategy="best:n=4", scorer=lambda question, answer, text: float(text[0]))
        assert (best.status, best.answer, len(best.samples), best.prompt_tokens) == ("found", "5", 4, 7)
        assert best.samples[0].token_ids == ()
        before = len(server.asked)
        for strategy in ("refine", "force:answer=4"):
            (refused,) = ask(strategy=strategy)
            assert "the engine openai tells no token ids, and this strategy continues a text by them" in refused.error
        assert len(server.asked) == before
