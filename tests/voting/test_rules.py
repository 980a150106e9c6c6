"""Rules against tables that a person can work out."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from fastsample.voting.ballots import Ballot, Tally
from fastsample.voting.registry import RULES, name_of, rule_of
from fastsample.voting.stopping import Ahead, Beta, Certified, Decided, Majority, TwoStage, Window, e_value


def tally_of(answers, budget=None, temperatures=(1.0,)):
    """Sample n says answers[n]: a letter, "-" unparsable, "." unfinished."""
    budget = budget or len(answers)
    tally = Tally([temperatures[n % len(temperatures)] for n in range(budget)])
    for n, letter in enumerate(answers):
        if letter != ".":
            tally.add(Ballot(n, tally.plan[n], None if letter == "-" else letter))
    return tally


def stop(rule, answers, budget=100, **kwargs):
    """After how many samples, taken one by one, the rule stops; None where it does not."""
    for n in range(1, len(answers) + 1):
        verdict = rule.judge(tally_of(answers[:n], budget, **kwargs))
        if verdict.is_final:
            return n
    return None


@pytest.mark.parametrize(("b", "a"), list(enumerate([4, 6, 8, 9, 11, 12, 14, 15])))
def test_beta_needs_these_votes_against_so_many(a, b):
    """The page's table of the smallest leads at 0.95, and that one vote fewer is not enough."""
    assert Beta().is_met(a, b, 0)
    assert not Beta().is_met(a - 1, b, 0)


def test_beta_is_the_posterior_of_a_uniform_prior():
    """P(share > 1/2) under Beta(a + 1, b + 1), integrated by hand for small counts: 1 - 2^-(a + 1) at b = 0."""
    assert Beta(confidence=1 - 2**-6).is_met(5, 0, 0)
    assert not Beta(confidence=1 - 2**-6 + 1e-9).is_met(5, 0, 0)


@pytest.mark.parametrize(
    ("rule", "answers", "expected"),
    [
        (Beta(), "aaaa", 4),
        (Beta(), "abaaaaaa", 7),
        (Beta(min_votes=6), "aaaaaa", 6),
        (Beta(), "a-a-a-a", 7),
        (Ahead(), "aaa", 3),
        (Ahead(), "abaaa", 5),
        (Ahead(k=1), "-b", 2),
        (Window(), "aaaaa", 5),
        (Window(), "abaaaaaaaa", 10),  # windows do not overlap: the second one is unanimous
        (Window(), "aaaabaaaa", None),
        (Window(), "aa-aa-a", 7),
        (Certified(), "aaaaaa", 6),
        (Certified(), "aaaaa", None),
        (Majority(), "a" * 99, None),
    ],
)
def test_one_by_one(rule, answers, expected):
    """Where each rule stops on a sequence of votes; "-" is unparsable, spent and no vote."""
    assert stop(rule, answers) == expected


def test_e_value_is_its_formula():
    """2^(s + f) times the mean of q^s (1 - q)^f over the nine chances."""
    grid = [0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert e_value(3, 1) == pytest.approx(16 * sum(q**3 * (1 - q) for q in grid) / 9)
    assert e_value(0, 0) == 1


def test_e_value_is_a_martingale_at_one_half():
    """A fair coin leaves its expectation unchanged, so that no stopping time can raise it."""
    for s in range(6):
        for f in range(6):
            assert (e_value(s + 1, f) + e_value(s, f + 1)) / 2 == pytest.approx(e_value(s, f))


@pytest.mark.parametrize(
    ("answers", "budget", "expected"),
    [
        ("aaa", 5, "a"),  # two votes are missing: b could have two
        ("aa", 5, None),
        ("aab", 4, "a"),  # b could draw level, but a was given first
        ("baa", 4, None),  # b could draw level and was given first
        ("aa--", 5, "a"),
        (".aab", 5, None),  # the missing first sample could be b's and come first
        ("ab", 2, "a"),  # spent: a tie goes to the answer given first
        ("--", 2, None),
    ],
)
def test_decided(answers, budget, expected):
    """Decided stops exactly when no vote to come can change the full vote, ties included."""
    verdict = Decided().judge(tally_of(answers, budget))
    assert verdict.answer == expected
    assert verdict.is_final == (expected is not None or len(answers) == budget)


def test_a_tie_is_told():
    """The full vote of two equal answers: the first given wins and the tie is marked."""
    verdict = Majority().judge(tally_of("bcbc"))
    assert (verdict.answer, verdict.is_tie, verdict.is_met) == ("b", True, False)


FOUR = (0.0, 0.4, 0.8, 1.2)


def two_stage(per_temperature, first=5, plan_rounds=13):
    """The verdict on votes given per temperature; temperature 0 has one."""
    rounds = max(len(v) for v in per_temperature.values())
    order = [(t, k) for k in range(plan_rounds) for t in per_temperature if t > 0 or k == 0]
    tally = Tally([t for t, _ in order])
    for n, (t, k) in enumerate(order):
        if k < rounds and k < len(per_temperature[t]):
            letter = per_temperature[t][k]
            tally.add(Ballot(n, t, None if letter == "-" else letter))
    return TwoStage(first=first).judge(tally)


@pytest.mark.parametrize(
    ("votes", "is_easy"),
    [
        ({0.0: "a", 0.4: "aaaaa", 0.8: "aaaaa", 1.2: "aaaaa"}, True),
        ({0.0: "a", 0.4: "aaaaa", 0.8: "aabaa", 1.2: "baaaa"}, True),  # 4 of 5 is 0.8: one dissent each
        ({0.0: "a", 0.4: "aaaaa", 0.8: "aabba", 1.2: "aaaaa"}, False),
        ({0.0: "b", 0.4: "aaaaa", 0.8: "aaaaa", 1.2: "aaaaa"}, False),  # temperature 0 disagrees with its one vote
        ({0.0: "a", 0.4: "aaaaa", 0.8: "aaaaa", 1.2: "-----"}, False),  # no vote, no confidence
        ({0.0: "a", 0.4: "aaaaa", 0.8: "aa-aa", 1.2: "aaaab"}, True),
        ({0.0: "a", 0.4: "aaaa", 0.8: "aaaa", 1.2: "aaaa"}, False),  # not one full round yet
    ],
)
def test_two_stage(votes, is_easy):
    """Easy: every temperature has a share of 0.8 for its answer, and it is the same answer."""
    verdict = two_stage(votes)
    assert verdict.is_final == is_easy
    assert verdict.answer == ("a" if is_easy else None)


def test_two_stage_of_temperature_zero_alone():
    """A plan of the greedy sample alone is decided by it."""
    tally = Tally([0.0])
    tally.add(Ballot(0, 0.0, "a"))
    assert TwoStage().judge(tally).answer == "a"


@pytest.mark.parametrize(
    ("rule", "answers", "expected"),
    [
        (Beta(), "", 4),
        (Beta(), "aab", 7),
        (Ahead(), "", 3),
        (Decided(), "", 50),
        (Majority(), "aa", 100),
        (Window(), "a", 5),
    ],
)
def test_reach(rule, answers, expected):
    """The smallest number of samples with which the rule could stop if all that is missing agreed."""
    assert rule.reach(tally_of(answers, 100)) == expected


def test_a_hole_is_every_possible_vote():
    """Beta past an unfinished sample: 4:0 is no verdict while one is open, 6:0 is (6:1 would still do)."""
    assert not Beta().judge(tally_of("aa.aa", 40)).is_final
    assert not Beta().judge(tally_of(".aaaaa", 40)).is_final
    assert Beta().judge(tally_of(".aaaaaa", 40)).answer == "a"


def test_holes_that_another_answer_could_have_won_with_are_waited_for():
    """Four open samples in front could all be b and would have stopped the vote before a's came."""
    assert not Beta().judge(tally_of("...." + "a" * 12, 40)).is_final
    assert Beta().judge(tally_of("...a" + "a" * 12, 40)).answer == "a"


@pytest.mark.parametrize("name", RULES)
def test_names_go_there_and_back(name):
    """Every rule has a short form that names it again, with its changed fields."""
    rule = rule_of(name)
    assert rule_of(name_of(rule)) == rule
    changed = rule_of(f"{name}:min_votes=7")
    assert changed.min_votes == 7
    assert rule_of(name_of(changed)) == changed != rule


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("best", "no rule is called 'best'"),
        ("beta:confidence=high", "confidence is a number, got 'high'"),
        ("beta:k=3", "beta knows min_votes=1, confidence=0.95; got 'k=3'"),
        ("beta:confidence=1.5", "confidence must lie between 0.5 and 1.0"),
        ("ahead:k=0", "k must be at least 1"),
        ("two-stage:share=0.4", "share must be in"),
        ("weighted:by=length", "by must be"),
    ],
)
def test_bad_rules_are_refused_in_a_sentence(text, part):
    """Rule, value and remedy for every way of naming a rule wrongly."""
    with pytest.raises(ValueError, match=part.split("(")[0]):
        rule_of(text)


def test_rules_are_frozen():
    """A rule that was measured is the rule that runs."""
    with pytest.raises(FrozenInstanceError):
        Beta().confidence = 0.5


@pytest.mark.parametrize("ballot", [Ballot(7, 1.0, "a"), Ballot(0, 1.0, "a"), Ballot(-1, 1.0, "a")])
def test_a_number_outside_the_plan_or_twice_is_refused(ballot):
    """Every number of the plan votes once."""
    tally = tally_of("a", 5)
    with pytest.raises(ValueError, match="sample"):
        tally.add(ballot)
