"""Methods and scorers that misbehave: a sentence for their question, and the others go on."""

from __future__ import annotations

import pytest
import world as worlds
from world import Constant, Oracle, Tokens, answer, world

from fastsample.solving.solve import solve_many
from fastsample.strategies.base import Choice, Grow, Read, Score
from fastsample.strategies.choice import choose
from fastsample.strategies.path import Ask, Path
from fastsample.strategies.plan import temperatures_of
from fastsample.strategies.question import Settings
from fastsample.strategies.registry import METHODS, method_of, strategy_name
from fastsample.strategies.task import Budget, SpentError
from fastsample.strategies.together import together

QUESTIONS = ["0", "1", "2"]


def run(method, scorer=None, budget=None, questions=QUESTIONS, **settings):
    engine = world(slots=8)
    settings = Settings(max_new_tokens=40, **settings)
    found = solve_many(None, Tokens(), questions, settings=settings, extractor=answer, scorer=scorer, budget=budget,
                       strategy=method, engine=engine)  # fmt: skip
    results = {r.question: r for r in found}
    assert not engine.kept
    assert not engine.running
    assert not engine.waiting
    return [results[q] for q in questions]


def bad_for_1(method):
    """Misbehaves for question 1 alone; answers the others with one sample."""

    def search(task):
        if task.question.text == "1":
            return (yield from method(task))
        return task.choose((yield Grow([task.ask(task.root)])))

    return search


def never_ends(task):
    while True:
        yield Grow([task.ask(task.root)])


def goes_round(task):
    while True:
        yield Score([])


def nonsense(task):
    yield 7


def returns_text(task):
    yield Grow([task.ask(task.root)])
    return "4"


def raises(task):
    yield Grow([task.ask(task.root, max_new_tokens=1)] * 2)
    raise KeyError("x")


def nothing(task):
    yield Grow([])


def asks_what_was_let_go(task):
    first, second = yield Grow([task.ask(task.root, until=("\n\n",))] * 2)
    yield Grow([task.ask(first, until=("\n\n",))])
    yield Grow([task.ask(second)])


def scores_without_a_scorer(task):
    yield Score((yield Grow([task.ask(task.root)])))


def reads_what_is_not_kept(task):
    yield Read(task.root, (4,))


def appends_too_much(task):
    yield Grow([task.ask(task.root, append=(4,) * 41)])


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (nonsense, "TypeError: a method yields Grow, Score or Read, got int"),
        (returns_text, "TypeError: a method returns a Choice, got str; task.choose(paths) makes one"),
        (raises, "KeyError: 'x'"),
        (nothing, "Grow needs at least one ask, got none"),
        (asks_what_was_let_go, "path 2 was let go of in round 2; name it in keep="),
        (scores_without_a_scorer, "search needs a scorer, got none"),
        (reads_what_is_not_kept, "nothing is kept of path 0; grow it first"),
        (appends_too_much, "a path may have 40 tokens, path 0 has 0 and append 41 more"),
        (goes_round, "RuntimeError: search yielded 100 times and did not end"),
    ],
)
def test_its_question_fails_in_a_sentence_and_the_others_go_on(method, sentence):
    """Nothing is left in the engine."""
    zero, one, two = run(bad_for_1(method), budget=Budget(legs=10))
    assert sentence in one.error
    assert zero.error is None
    assert two.error is None
    assert zero.answer is not None


def test_a_method_that_never_ends_is_ended_by_its_budget():
    """The best of what it has; the others do not notice."""
    zero, one, two = run(bad_for_1(never_ends), budget=Budget(legs=10))
    assert one.status == "spent"
    assert one.legs == 10
    assert one.reason.startswith("the budget is spent; ")
    assert one.answer is not None
    assert zero.status == two.status == "found"


class Bad(Constant):
    """Says something else of question 1."""

    def __init__(self, said):
        super().__init__()
        self.said = said

    def score(self, candidates):
        good = super().score(candidates)
        return self.said if any(c.question == "1" for c in candidates) else good


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ([(float("nan"),)] * 4, "must return finite numbers, constant returned nan"),
        ([(0.5, 0.5)] * 4, "a number for each leg, constant returned 2 for 1 legs"),
        ([0.5] * 4, "a number for each leg, constant returned a float for 1 legs"),
        ([(0.5,)] * 3, "a number for each of 4 samples, constant returned 3"),
        ([(7.0,)] * 4, "constant promises numbers in [0, 1] and returned 7.0"),
        ([("x",)] * 4, "must return plain numbers, constant returned a str"),
        (None, "must return a list of numbers, constant returned a NoneType"),
    ],
)
def test_a_bad_scorer_costs_the_question_that_it_was_bad_for(said, sentence):
    """It is asked again question by question."""
    zero, one, two = run("beam:n=4,m=2", Bad(said))
    assert sentence in one.error
    assert zero.error is None
    assert two.error is None


def test_a_tensor_is_no_number():
    """Its remedy is said."""
    torch = pytest.importorskip("torch")
    for said in (torch.zeros(4, 1), [(torch.tensor(0.5),)] * 4):
        assert "Tensor" in run("beam:n=4,m=2", Bad(said))[1].error


@pytest.mark.parametrize("tokens", [7, 30, 100])
def test_a_budget_of_tokens_is_never_passed(tokens):
    """Pruned paths included; the result says that it was spent."""
    for method in ("beam:n=8,m=4", "best:n=8", "mcts:rounds=9,m=2"):
        for found in run(method, Oracle(), Budget(tokens=tokens)):
            assert found.tokens <= tokens
            if found.status == "spent":
                assert "the budget is spent" in found.reason


def test_a_method_may_answer_when_its_budget_is_spent():
    """The error is thrown into it, once."""

    def careful(task):
        paths = []
        try:
            while True:
                paths += yield Grow([task.ask(task.root)])
        except SpentError:
            return Choice(paths[0], "mine", None, "I had enough")

    (found,) = run(careful, budget=Budget(legs=3), questions=["1"])
    assert (found.answer, found.status, found.legs) == ("mine", "spent", 3)


def test_together_of_one_is_that_one():
    """The same tree."""
    beam = method_of("beam:n=4,m=2")

    def wrapped(task):
        ((finished),) = yield from together([beam.search(task)])
        return task.choose(finished)

    (plain,), (one,) = run(beam, Oracle(), questions=["5"]), run(wrapped, Oracle(), questions=["5"])
    assert [p.tokens for p in plain.paths] == [p.tokens for p in one.paths]
    assert plain.answer == one.answer


def test_a_cut_path_is_drawn_anew():
    """Cut back to one token: what follows has another stream, and the path that was cut stays."""

    def cutting(task):
        (path,) = yield Grow([task.ask(task.root, until=("\n\n",), legs=3)])
        less = task.cut(path, 1)
        (again,) = yield Grow([task.ask(less, until=("\n\n",), legs=2)], keep=[path])
        assert again.ids()[:4] == path.ids()[:4]
        assert again.ids() != path.ids()
        (own,) = yield Grow([task.ask(path)])
        return task.choose([own])

    (found,) = run(cutting, questions=["1"])
    assert found.error is None
    streams = [p.stream for p in found.paths if p.parent is not None]
    assert len(set(streams)) == 2  # the cut one has what it was cut from, and so has what continues that


@pytest.mark.parametrize("name", METHODS)
def test_names_are_the_inverse_of_methods(name):
    """At its defaults, and with a comma, a backslash and a line break in a text."""
    method = method_of(name)
    assert strategy_name(method) == name
    assert method_of(strategy_name(method)) == method
    texts = [f for f in type(method).__dataclass_fields__ if f in ("until", "wait", "folder")]
    for field in texts:
        odd = method_of(name + f":{field}=" + r"a\,b\n\\c")
        assert getattr(odd, field) == "a,b\n\\c"
        assert method_of(strategy_name(odd)) == odd


def paths_of(*answers, scores=None):
    made = []
    for n, text in enumerate(answers):
        path = Path(n + 1, Path(0, None, (1,)), (1,), (5,), finish="eos", answer=text)
        path.scores = () if scores is None else (scores[n],)
        made.append(path)
    return made


def test_how_a_choice_is_made():
    """Best, the largest sum, the most frequent, a tie broken by score, and by number."""
    paths = paths_of("a", "b", "b", None, scores=[0.9, 0.5, 0.6, 1.0])
    assert choose(paths, Constant(), "best").path is paths[0]
    weighted = choose(paths, Constant(), "weighted")
    assert (weighted.answer, weighted.path, weighted.score) == ("b", paths[2], 1.1)
    assert choose(paths, Constant(), "auto").answer == "b"
    assert choose(paths, None).answer == "b"
    tied = paths_of("a", "b", scores=[0.1, 0.2])
    assert choose(tied, Constant(), "vote").answer == "a"
    assert choose(tied, Constant(), "tie").answer == "b"
    assert choose(paths_of(None), None).answer is None
    assert choose([], None).reason == "no path came to its end"
    with pytest.raises(ValueError, match="how=best needs a scorer"):
        choose(paths_of("a"), None, "best")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"until": ("",)}, "until must hold text"),
        ({"until": ("x",), "stop": ("x",)}, "'x' ends a leg and the whole path"),
        ({"max_new_tokens": 0}, "a leg must have room for a token"),
        ({"temperature": -1.0}, "a temperature must be a finite number of at least 0, got -1.0"),
    ],
)
def test_what_no_leg_can_be(fields, sentence):
    """Refused when it is written down."""
    with pytest.raises(ValueError, match=sentence):
        Ask(Path(0, None, (1,)), **fields)


def test_the_world_is_not_always_right():
    """The twin of the oracle."""
    assert not worlds.is_right((1, 2))


@pytest.mark.parametrize(
    ("given", "found"),
    [("0.4/0.8", (0.4, 0.8)), ("0,0.4,1e+0", (0.0, 0.4, 1.0)), ("0.7", (0.7,)), (0.7, (0.7,)), ([0.4, 1], (0.4, 1.0))],
)  # fmt: skip
def test_temperatures_have_one_notation(given, found):
    """At the command line, in strategies and in other programs: / between them, or commas where these part nothing."""
    assert temperatures_of(given) == found


@pytest.mark.parametrize("given", ["", "0.4//0.8", "warm", "-1", "nan", "0.4/inf", [0.4, -1.0]])
def test_what_are_no_temperatures(given):
    """One sentence, with the value."""
    with pytest.raises(ValueError, match=r"temperatures? must be"):
        temperatures_of(given)
