"""Temperatures that choose themselves, against a slow reading of the same words and in every order of arrival."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from fastsample.cli import main as app
from fastsample.evaluation.dataset import Item, RunError
from fastsample.evaluation.evaluate import evaluate
from fastsample.evaluation.replay import replay
from fastsample.evaluation.report import ADAPTIVE, report_of
from fastsample.evaluation.stored import read_config, read_samples, settings_of
from fastsample.solving.solve import repeat, solve, solve_many
from fastsample.strategies.plan import plan_of
from fastsample.strategies.question import Question, Settings
from fastsample.strategies.records import Written
from fastsample.voting.ballots import Ballot
from fastsample.voting.registry import rule_of
from fastsample.voting.temperatures import agreement, block, chosen

SET = (0.0, 0.4, 0.8, 1.2)


def first_letter(text):
    return text[0] if text else None


def stored(questions, samples, likely, seed=3):
    """Made-up samples, so many of each temperature; likely: temperature -> chance of the answer "1"."""
    rng = random.Random(seed)

    def answer(t):
        return "1" if rng.random() < likely[t] else rng.choice(["2", "3", "4", "5", "6", None])

    plan = plan_of(SET, samples)
    return [
        {n: Written(n, t, k, n, "", answer(t), rng.randint(2, 40), "eos") for n, (t, k) in enumerate(plan)}
        for _ in range(questions)
    ]


def drawn(result):
    return [(s.number, s.temperature, s.answer) for s in result.samples]


def test_agreement_is_how_often_a_sample_says_what_most_others_say():
    """Looked up sample by sample."""
    rng = random.Random(1)
    for size in (1, 2, 7, 30):
        ballots = [Ballot(n, rng.choice(SET), rng.choice(["a", "b", "c", None])) for n in range(size)]
        for t in SET:
            mine, agreed = [b for b in ballots if b.temperature == t], 0.0
            for b in mine:
                others = [x.answer for x in ballots if x is not b and x.answer is not None]
                top = {a for a in others if others.count(a) == max(map(others.count, others))}
                agreed += (b.answer in top) / max(1, len(top))
            assert agreement(ballots, t) == pytest.approx(agreed)


def test_samples_go_where_votes_agree():
    """Ten of ten at 0.4 against scattered ones; one lucky sample weighs less than many; ties go to the first."""
    clear = [Ballot(n, (1.2, 0.4)[n % 2], "1" if n % 2 else str(n)) for n in range(20)]
    assert chosen(clear, (1.2, 0.4)) == 0.4
    mixed = ["1"] * 9 + ["2"] + ["3", "1"]
    lucky = [Ballot(n, 0.4 if n < 10 else 0.8 if n == 11 else 1.2, answer) for n, answer in enumerate(mixed)]
    shares = {0.4: (9 + 2 * 11 / 14) / 12, 0.8: (1 + 2 * 11 / 14) / 3, 1.2: (0 + 2 * 11 / 14) / 3}
    assert chosen(lucky, (0.4, 0.8, 1.2)) == max(shares, key=shares.get)
    assert chosen([Ballot(n, (0.4, 0.8)[n % 2], "1") for n in range(20)], (0.8, 0.4)) == 0.8
    assert [block(n, 3, 40) for n in (7, 10, 20, 38)] == [4, 5, 10, 2]


def test_the_plan_rests_on_votes_by_number_alone():
    """Live blocks of samples of every length, on 1 to 64 slots, at once or in waves, are what one by one gives."""
    samples = stored(12, 40, {0.0: 0.9, 0.4: 0.9, 0.8: 0.5, 1.2: 0.1})
    settings = Settings("auto", 13)
    at_best = 0
    for place, mine in enumerate(samples):
        by = {(w.temperature, w.k): w for w in mine.values()}
        order, ballots = list(plan_of(SET, 2)), []
        while len(ballots) < 40:
            ballots += [
                Ballot(n, by[order[n]].temperature, by[order[n]].answer) for n in range(len(ballots), len(order))
            ]
            t = chosen(ballots, SET[1:])
            order += [(t, sum(t == x for x, _ in order) + i) for i in range(block(len(ballots), 3, 40))]
        wanted = [(n, t, by[t, k].answer) for n, (t, k) in enumerate(order)]
        at_best += Counter(t for t, _ in order)[0.4]
        for slots in (1, 3, 64):
            for together in (False, True):
                asked = replace(settings, together=together)
                run = dict(replay(samples[place : place + 1], asked, "majority", slots=slots))
                assert drawn(run[0]) == wanted
    assert at_best > 12 * 18  # of 40; an even plan has 13
    beside = dict(replay(samples, settings, "majority", slots=17))
    assert all(
        drawn(beside[n]) == drawn(next(iter(replay([s], settings, "majority")))[1]) for n, s in enumerate(samples)
    )


@pytest.mark.parametrize("rule", ["majority", "ahead:k=2", "decided", "beta"])
def test_every_rule_stops_on_a_prefix_of_the_full_plan(rule):
    samples, settings = stored(20, 40, {0.0: 0.7, 0.4: 0.7, 0.8: 0.5, 1.2: 0.1}), Settings("auto", 13)
    full = dict(replay(samples, settings, "majority"))
    for place, result in replay(samples, settings, rule, slots=5):
        whole = drawn(full[place])
        assert all(s.finish == "cancelled" or drawn(result)[s.number] == whole[s.number] for s in result.samples)
        assert [s[:2] for s in drawn(result)] == [s[:2] for s in whole[: len(result.samples)]]
        if rule == "decided":
            assert result.answer == full[place].answer


def test_a_real_engine(biased):
    """The same texts in any batch, alone and beside others, and when a part of them is known from before."""
    settings = {"temperatures": "auto:0.5,1,1.5", "samples": 6, "extractor": first_letter, "max_new_tokens": 24}
    want = solve(*biased, "2 + 2?", together=False, rule="majority", **settings)
    assert want.planned == 18
    texts = [(s.number, s.temperature, s.k, s.text) for s in want.samples]
    got = solve(*biased, "2 + 2?", slots=3, rule="majority", **settings)
    assert [(s.number, s.temperature, s.k, s.text) for s in got.samples] == texts
    named = Settings("auto:0.5,1,1.5", 6, max_new_tokens=24)
    known = tuple(s for s in want.samples if s.number % 3)
    many = [Question("2 + 2?", "known", known), Question("3 + 3?", "other")]
    results = {r.id: r for r in solve_many(*biased, many, settings=named, extractor=first_letter)}
    assert [(s.number, s.temperature, s.k, s.text) for s in results["known"].samples] == texts
    assert repeat(*biased, "2 + 2?", 3, settings=named, extractor=first_letter).text == want.samples[3].text
    with pytest.raises(ValueError, match="chosen by the votes before it"):
        repeat(*biased, "2 + 2?", 17, settings=named)


def test_a_run_is_kept_reported_and_gone_on_with(biased, tmp_path):
    items = [Item("a", "2 + 2?", "4"), Item("b", "3 + 3?", "5"), Item("c", "1 + 3?", "4")]
    settings = Settings("auto", 6, max_new_tokens=24)
    whole = evaluate(*biased, items, tmp_path / "whole", settings=settings, extractor=first_letter)
    assert whole.done == 3
    config = read_config(tmp_path / "whole")
    assert (config["is_adaptive"], settings_of(config)) == (True, settings)
    page = report_of(tmp_path / "whole", ["ahead:k=2"])
    assert (page.complete, page.verdict) == (3, ADAPTIVE)
    evaluate(*biased, items, tmp_path / "cut", settings=settings, extractor=first_letter)
    journal = tmp_path / "cut" / "samples.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[: len(lines) // 2]))
    (tmp_path / "cut" / "results.jsonl").write_text("")
    evaluate(*biased, items, tmp_path / "cut", settings=settings, extractor=first_letter, resume=True)
    kept = [
        sorted((q, s.number, s.temperature, s.text) for q, s in read_samples(tmp_path / name))
        for name in ("whole", "cut")
    ]
    assert kept[0] == kept[1]
    journal.write_text(re.sub(r'("temperature": ?)[0-9.]+', r"\g<1>0.5", lines[-1]))
    with pytest.raises(RunError, match=r"one of the temperatures 0\.4, 0\.8, 1\.2, got 0\.5"):
        report_of(tmp_path / "cut")


def test_replay_says_what_it_lacks():
    samples = stored(1, 4, {0.0: 1, 0.4: 1, 0.8: 0, 1.2: 0})
    with pytest.raises(LookupError, match=r"no further sample of question 0 at temperature 0\.4"):
        dict(replay(samples, Settings("auto", 13), "majority"))


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"temperatures": "auto:0.4"}, "at least two above 0"),
        ({"temperatures": "auto:0,0.4"}, "at least two above 0"),
        ({"temperatures": "auto:x"}, "must be numbers"),
        ({"temperatures": "auto", "rule": rule_of("two-stage")}, "two-stage asks all temperatures for equally many"),
    ],
)
def test_bad_input(settings, part):
    with pytest.raises(ValueError, match=part):
        Settings(**settings).plan()


def test_the_command():
    for given, part in (("auto:1", "at least two above 0"), ("automatic", "must be numbers")):
        said = CliRunner().invoke(app, ["solve", "1 + 1?", "--temperatures", given])
        assert (said.exit_code, part in said.output.replace("\n", " ")) == (2, True)
