"""Votes over a real server, llama.cpp's: what closing a stream saves there, by its own counters."""

from __future__ import annotations

import json

import llama
import pytest
from typer.testing import CliRunner

from fastsample import Settings, solve
from fastsample.cli import main
from fastsample.engines.base import Request
from fastsample.engines.openai.engine import ServerEngine
from fastsample.engines.openai.servers import ServerError
from fastsample.models.loading import EMBEDDED_NAME
from fastsample.solving.solve import solve_many

pytestmark = [pytest.mark.model, pytest.mark.skipif(llama.why_not() is not None, reason=str(llama.why_not()))]
EASY = "What is 2 + 2? Answer with one number."


@pytest.fixture(scope="module")
def url():
    with llama.server() as address:
        yield address


def test_what_it_is(url):
    """Its kind, its slots; it stops when it is told to."""
    with ServerEngine([url]) as engine:
        assert engine.traits.name.startswith("llama.cpp")
        assert (engine.slots, engine.traits.cancels) == (16, "group")
        assert engine.watch() is None


def test_a_vote_that_ends_early_costs_less(url):
    """The same question by the full vote and by ahead:k=2, counted by the server."""
    costs = {}
    for rule in ("majority", "ahead:k=2"):
        with ServerEngine([url]) as engine:
            before = llama.settled(url)[0]
            result = solve(
                None, engine.tokenizer, EASY, temperatures=(0.2, 0.6), samples=8, rule=rule, engine=engine,
                max_new_tokens=24, together=False,
            )  # fmt: skip
            costs[rule] = llama.settled(url)[0] - before
            assert 0 <= costs[rule] - result.tokens <= len(result.samples)  # what was under way: a token a sample
            assert result.prompt_tokens > 20
            assert result.answer is not None
    assert costs["ahead:k=2"] < 0.6 * costs["majority"]


def test_a_cancelled_group_writes_a_token_more_at_most(url):
    """Sixteen samples of three hundred tokens, closed after some: what is written is what came, and one each."""
    with ServerEngine([url]) as engine:
        before = llama.settled(url)[0]
        prompt = engine.tokenizer('[{"role": "user", "content": "Count from 1 to 1000."}]')["input_ids"]
        samples = engine.submit([Request(prompt, temperature=0.8, max_new_tokens=300) for _ in range(16)])
        while not engine.is_idle and sum(len(s.tokens) for s in samples) < 16 * 6:
            engine.step()
        engine.cancel(samples)
        received = sum(len(s.tokens) for s in samples)
        written = llama.settled(url)[0] - before
        assert received <= written <= received + 2 * 16  # the step under way, and one that had not come yet


def test_one_prompt_is_read_once(url):
    """Sixteen samples of a prompt of four hundred tokens are one request with n = 16."""
    text = f"Remember {' '.join(map(str, range(100, 200)))}. " + EASY
    with ServerEngine([url]) as engine:
        before = llama.settled(url)[1]
        result = solve(None, engine.tokenizer, text, temperatures=(0.7,), samples=16, max_new_tokens=4, engine=engine)
        assert result.prompt_tokens > 400
        assert llama.settled(url)[1] - before <= result.prompt_tokens + 16


def test_the_model_s_own_tokenizer(url, embedded):
    """Prompts as token ids; another tokenizer is refused."""
    _, tokenizer = embedded
    with ServerEngine([url], tokenizer) as engine:
        result = solve(None, tokenizer, EASY, temperatures=(0.0,), samples=1, max_new_tokens=16, engine=engine)
        assert "4" in result.samples[0].text
        assert result.prompt_tokens == len(tokenizer.apply_chat_template(
            [{"role": "user", "content": EASY}], add_generation_prompt=True, return_dict=False
        ))  # fmt: skip
    import bigram

    with pytest.raises(ServerError, match="the tokenizer must be that of the server's model"):
        ServerEngine([url], bigram.bigram_tokenizer())


def test_a_tokenizer_at_the_command_line(url, embedded, tmp_path):
    """--tokenizer has the prompt sent as its ids, and a folder without one is told in a sentence."""
    words = ["solve", EASY, "--base-url", url, "--temperatures", "0", "--max-new-tokens", "16", "--json", "--tokenizer"]
    found = CliRunner().invoke(main, [*words, EMBEDDED_NAME])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["answer"] == "4"
    found = CliRunner().invoke(main, [*words, str(tmp_path)])
    assert found.exit_code == 2
    assert "config.json" in found.output
    found = CliRunner().invoke(main, ["solve", EASY, "--tokenizer", "x"])
    assert "--tokenizer makes the prompts for servers" in found.output


def test_confidence_by_log_probabilities(url):
    """The rule that looks at every token runs over a server, too."""
    with ServerEngine([url], top_logprobs=20) as engine:
        settings = Settings((0.6,), 6, "confidence:warmup=3,window=4", max_new_tokens=16)
        (result,) = solve_many(None, engine.tokenizer, [EASY], settings=settings, engine=engine, is_strict=True)
        assert all(s.means.self_certainty > 0 for s in result.samples if s.tokens)
