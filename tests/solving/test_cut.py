"""A sample that was cut by its length has not come to its answer: it votes only where that is asked for."""

from __future__ import annotations

import bigram
import pytest

from fastsample.solving.solve import solve
from fastsample.strategies.question import Question, Settings

# One in three says 4 and ends; the others say 5 and go on for ever.
BABBLE = {bigram.ASSISTANT: {"4": 0.34, "5": 0.66}, "4": {bigram.END: 1.0}, "5": {"a": 1.0}, "a": {"a": 1.0}}
SETTINGS = {"temperatures": (1.0,), "samples": 12, "max_new_tokens": 6, "extractor": lambda text: text[:1] or None}


@pytest.fixture(scope="module")
def babble():
    tokenizer = bigram.bigram_tokenizer()
    return bigram.bigram_model(tokenizer, BABBLE), tokenizer


def test_cut_samples_do_not_win(babble):
    """Most samples begin with 5 and are cut: the vote is of those that ended, and the result counts the others."""
    result = solve(*babble, "2 + 2?", **SETTINGS)
    cut = [s for s in result.samples if s.finish == "length"]
    assert len(cut) > 6
    assert all(s.answer is None for s in cut)
    assert (result.answer, result.cut) == ("4", len(cut))
    assert result.unparsable == len(cut)
    assert result.to_json()["cut"] == len(cut)


def test_cut_samples_vote_when_asked(babble):
    """The same samples, and the other answer."""
    result = solve(*babble, "2 + 2?", cut_votes=True, rule="majority", **SETTINGS)
    assert result.answer == "5"
    assert result.cut == sum(s.finish == "length" for s in result.samples)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("2 + 2?",), {"temperatures": 0.7}, r"temperatures must be several numbers, got 0.7; write \(0.7,\)"),
        (("2 + 2?",), {"stop": "x"}, r"stop must be several texts, got 'x'; write \('x',\)"),
        ((["a", "b"],), {}, "a question must be a text, got list .*; solve_many takes several questions"),
    ],
)
def test_what_is_no_question_and_no_setting(babble, arguments, settings, message):
    """The rule, the value and the remedy, instead of what Python says of it."""
    with pytest.raises(TypeError, match=message):
        solve(*babble, *arguments, **settings)


def test_no_tokenizer(babble):
    """A model without one cannot be asked in words."""
    with pytest.raises(TypeError, match=r"tokenizer must be the model's own, got NoneType; models\.load returns both"):
        solve(babble[0], None, "2 + 2?")
    assert Question("", prompt=(3, 4)).prompt == (3, 4)
    assert Settings(temperatures=[0.5, 1]).temperatures == (0.5, 1)
