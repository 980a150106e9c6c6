"""What a run has cost, over all of its starts: nothing is counted twice, and a killed start is counted too."""

from __future__ import annotations

import json

import bigram
import pytest

from fastsample.evaluation import run_folder
from fastsample.evaluation.dataset import Item
from fastsample.evaluation.evaluate import evaluate
from fastsample.evaluation.replay import replay
from fastsample.evaluation.report import live_costs
from fastsample.strategies.question import Settings
from fastsample.strategies.records import Written, budget_tokens

ITEMS = [Item(str(n), f"{n} + 1?", str(n + 1)) for n in range(6)]
SETTINGS = Settings(temperatures=(0.7, 1.0), samples=4, max_new_tokens=12, rule="ahead:k=2")


@pytest.fixture(scope="module")
def lm():
    tokenizer = bigram.bigram_tokenizer()
    return bigram.bigram_model(tokenizer, bigram.BRIEF_OR_ENDLESS), tokenizer


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("interrupted_after", [0, 1, 3])
def test_every_start_is_counted_once(lm, tmp_path, monkeypatch, interrupted_after):
    """Interrupted and gone on with: tokens are those of all samples that are stored, steps those of both starts."""
    monkeypatch.setattr(run_folder, "COST_SECONDS", 0.0)
    folder, seen = tmp_path / "run", []

    def stop(result, is_right):
        seen.append(result)
        if len(seen) > interrupted_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(*lm, ITEMS, folder, settings=SETTINGS, slots=6, on_result=stop)
    first = live_costs(folder)
    assert first["steps"] > 0
    evaluate(*lm, ITEMS, folder, settings=SETTINGS, slots=6, resume=True)
    both = live_costs(folder)
    assert both["tokens"] == sum(line["tokens"] for line in lines(folder / "samples.jsonl"))
    assert both["steps"] > first["steps"]
    assert both["seconds"] > first["seconds"]
    for line in lines(folder / "sessions.jsonl"):
        assert all(value >= 0 for value in line.values())


def test_costs_are_kept_while_it_runs(lm, tmp_path, monkeypatch):
    """A process that is killed leaves what it has cost so far."""
    monkeypatch.setattr(run_folder, "COST_SECONDS", 0.0)
    monkeypatch.setattr(run_folder, "FLUSH_LINES", 1)
    told = []

    def look(result, is_right):
        told.append(sum(line["steps"] for line in lines(tmp_path / "run" / "sessions.jsonl")))

    evaluate(*lm, ITEMS, tmp_path / "run", settings=SETTINGS, slots=2, on_result=look)
    assert 0 < told[0] < told[-1]


def sample(number, temperature, tokens, finish="eos"):
    return Written(number, temperature, 0, 0, "", None, tokens, finish)


def test_a_greedy_sample_that_goes_round_in_circles_does_not_make_a_saving():
    """In waves the hottest temperature may have no finished sample: it counts with the least mean, not with 256."""
    samples = [sample(0, 0.0, 256, "length"), sample(1, 0.5, 10), sample(2, 0.5, 14)]
    plan = [0.0] + [0.5, 1.0] * 10
    assert budget_tokens(samples, plan) == 256 + 10 * 12 + 10 * 12
    everything = [sample(n, t, 5) for n, t in enumerate(plan)]
    assert budget_tokens(everything, plan) == 5 * 21


def test_a_rule_is_named_in_words_everywhere():
    """In settings and in a replay, as in `solve`."""
    stored = [{n: Written(n, 1.0, n, 0, "4", "4", 2, "eos") for n in range(8)}]
    settings = Settings(temperatures=(1.0,), samples=8, rule="majority")
    (_, result), *_ = replay(stored, settings, "ahead:k=2")
    assert (result.answer, result.rule, result.counted) == ("4", "ahead:k=2", 2)
