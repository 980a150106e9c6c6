"""Methods in a world whose chances can be computed, and the equalities that streams promise."""

from __future__ import annotations

from math import log, sqrt

import pytest
import world as worlds
from world import Constant, Noisy, Oracle, Tokens, answer, beam, best_of, dvts, world

from fastsample.cli.live_view import Palette
from fastsample.cli.result_view import answer_line
from fastsample.solving.solve import solve_many
from fastsample.strategies.collective import Node as Collected
from fastsample.strategies.collective import new_value
from fastsample.strategies.particles import logit, softmax, systematic
from fastsample.strategies.path import Path
from fastsample.strategies.question import Settings
from fastsample.strategies.tree_search import MCTS, Node, back_up, puct, uct


def ask(strategy, questions=("1",), scorer=None, engine=None, seed=0, **settings):
    """[Found, ...] in the order of the questions."""
    settings = Settings(max_new_tokens=40, seed=seed, **settings)
    found = solve_many(
        None, Tokens(), questions, settings=settings, extractor=answer, scorer=scorer or Oracle(), strategy=strategy,
        engine=engine or world(), is_strict=True,
    )  # fmt: skip
    results = {r.question: r for r in found}
    return [results[q] for q in questions]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("best:n=4", best_of(0.5, 6, 4)),
        ("best:n=16", best_of(0.5, 6, 16)),
        ("best:n=64", best_of(0.5, 6, 64)),
        ("beam:n=4,m=4", beam(0.5, 6, 4, 4)),
        ("beam:n=16,m=4", beam(0.5, 6, 16, 4)),
        ("dvts:n=4,m=4", dvts(0.5, 6, 4, 4)),
        ("dvts:n=16,m=4", dvts(0.5, 6, 16, 4)),
    ],
)
def test_success_is_what_the_closed_form_says(strategy, expected):
    """By an oracle's scores, over 200 questions: within four standard errors (the benchmark takes 20,000)."""
    questions = [str(n) for n in range(200)]
    found = ask(strategy, questions, engine=world(slots=256))
    share = sum(r.answer == "right" for r in found) / len(found)
    assert abs(share - expected) <= 4 * sqrt(max(expected * (1 - expected), 1e-3) / len(found))


def test_the_closed_forms_are_those_that_were_published_here():
    """Values that a person computed."""
    assert [round(best_of(0.5, 6, n), 4) for n in (4, 16, 64)] == [0.0611, 0.2227, 0.6350]
    assert [round(dvts(0.5, 6, n, 4), 4) for n in (4, 16)] == [0.6789, 0.9894]
    assert [round(beam(0.3, 6, n, 4), 4) for n in (4, 16)] == [0.1925, 0.8704]


def test_a_scorer_turned_round_falls_below_one_sample():
    """The twin: one sample is right on 1.6 %; nobody finds a right one by choosing the worst."""
    questions = [str(n) for n in range(200)]
    assert not any(r.answer == "right" for r in ask("beam:n=16,m=4", questions, Oracle(-1), world(slots=256)))


METHODS = [
    "best:n=8", "weighted:n=8", "beam:n=8,m=4", "beam:n=8,m=4,lookahead=1", "dvts:n=8,m=4", "particles:n=8",
    "mcts:rounds=4,m=3,parallel=2", "comcts:rounds=2", "mcts:rounds=3,m=2,value=rollout", "mcts:rounds=3,m=2,prior=1",
]  # fmt: skip


def told(result):
    """All of a tree that could differ."""
    tree = [(p.number, p.tokens, p.stream, p.scores, p.fate) for p in result.paths]
    return result.answer, result.reason, result.tokens, result.rounds, tree


@pytest.mark.parametrize("strategy", METHODS)
def test_a_result_does_not_depend_on_who_else_runs(strategy):
    """Alone; beside seven questions; with 1, 3 or 64 slots: the same tree, token for token."""
    (alone,) = ask(strategy, ["3"], Noisy())
    questions = [str(n) for n in range(8)]
    for slots in (1, 3, 64):
        engine = world(slots=slots)
        assert told(ask(strategy, questions, Noisy(), engine)[3]) == told(alone)
        assert not engine.kept
        assert not engine.running


@pytest.mark.parametrize("strategy", [*METHODS[:6], "mcts:rounds=40,m=2,parallel=2", "mcts:rounds=3,m=2,value=rollout"])
def test_path_0_of_a_constant_scorer_is_sample_0(strategy):
    """Where nothing decides, the first path of any search is the first plain sample."""
    (found,) = ask(strategy, ["5"], Constant())
    (vote,) = ask("vote", ["5"], Constant(), temperatures=(0.8,), samples=8)
    first = vote.samples[0].token_ids
    assert first in [s.token_ids for s in found.samples]
    if "mcts" not in strategy:  # a tree search finishes others before it
        assert min(found.samples, key=lambda s: s.number).token_ids == first


def test_the_texts_of_best_of_n_are_the_samples_of_a_vote():
    """Number by number, several temperatures in turn."""
    (found,) = ask("best:n=8,temperatures=0.4/0.8", ["5"])
    (vote,) = ask("vote", ["5"], temperatures=(0.4, 0.8), samples=4)
    assert [s.token_ids for s in found.samples] == [s.token_ids for s in vote.samples]
    assert [(s.temperature, s.k, s.stream) for s in found.samples] == [
        (s.temperature, s.k, s.stream) for s in vote.samples
    ]


def test_a_beam_of_one_is_a_plain_sample():
    """One path, leg by leg."""
    (found,) = ask("beam:n=1,m=1", ["5"])
    (vote,) = ask("vote", ["5"], temperatures=(0.8,), samples=1)
    assert [s.token_ids for s in found.samples] == [vote.samples[0].token_ids]
    assert found.depth == found.rounds == 6


@pytest.mark.parametrize("strategy", [*METHODS, "beam:n=16,m=4"])
def test_no_two_rows_share_their_randomness(strategy):
    """Equal (stream, position) only where all tokens before are equal too."""
    (found,) = ask(strategy, ["2"], Noisy())
    seen = {}
    for path in found.paths:
        if path.parent is None or path.temperature == 0:
            continue
        before = path.parent.ids()
        for n in range(len(path.tokens)):
            ids = before + path.tokens[:n]
            assert seen.setdefault((path.stream, len(ids)), ids) == ids


def test_scores_of_many_questions_are_asked_for_in_one_call():
    """Eight beams in step: as many calls as one of them makes."""
    alone, many = Oracle(), Oracle()
    ask("beam:n=8,m=4", ["1"], alone)
    ask("beam:n=8,m=4", [str(n) for n in range(8)], many, world(slots=64))
    assert many.calls == alone.calls == 6


def test_finished_paths_never_exceed_n_and_every_token_is_counted():
    """A leg is a token here, and the last one has an end."""
    for strategy in ("beam:n=8,m=4", "dvts:n=8,m=4", "beam:n=8,m=2,lookahead=2"):
        (found,) = ask(strategy, ["4"], Noisy())
        assert len(found.samples) <= 8
        drawn = sum(len(p.tokens) + (p.finish == "eos") for p in found.paths if p.parent)
        assert found.tokens == drawn


@pytest.mark.parametrize("share", [lambda x: x**3, lambda x: x / 2])
def test_a_beam_looks_at_ranks_alone(share):
    """Monotone transforms of the scores change no path; they do change a weighted sum."""

    class Bent(Noisy):
        def score(self, candidates):
            return [tuple(map(share, numbers)) for numbers in super().score(candidates)]

    plain, bent = (ask("beam:n=8,m=4,how=best", ["6"], scorer)[0] for scorer in (Noisy(), Bent()))
    assert [p.tokens for p in plain.paths] == [p.tokens for p in bent.paths]
    assert plain.answer == bent.answer


def test_search_beats_selection_on_hard_questions():
    """mu 1.2, p 0.6: the beam far above best-of-n, which is above the vote (published: 94, 33 and 1 % at n = 16)."""
    questions = [str(n) for n in range(120)]
    right = {
        strategy: sum(r.answer == "right" for r in ask(strategy, questions, Noisy(), world(0.6, slots=256)))
        for strategy in ("beam:n=16,m=4", "best:n=16,how=best", "best:n=16,how=vote")
    }
    beam_right, best_right, vote_right = right.values()
    assert beam_right > best_right + 30 > vote_right + 30


def test_the_world_depends_on_the_stream():
    """The twin of the equalities: another seed writes other texts."""
    assert ask("best:n=4", seed=1)[0].paths[1].tokens != ask("best:n=4", seed=2)[0].paths[1].tokens
    assert worlds.is_right((1, 3, 5))


def hand_made():
    """A root with two children, the first with two of its own: visits 5, 3, 1, 1, 1."""
    root = Node(Path(0, None, (1,)), visits=5, total=2.0)
    first = Node(Path(1, root.path, (1,), finish="until"), root, 3, 1.5, 0.75)
    second = Node(Path(2, root.path, (1,), finish="until"), root, 1, 0.25, 0.25)
    root.children = [first, second]
    first.children = [
        Node(Path(n, first.path, (1,), finish=finish), first, 1, value)
        for n, finish, value in ((3, "eos", 0.9), (4, "until", 0.1))
    ]
    return root, first, second


def test_the_formulas_of_selection():
    """UCT takes the parent's visits under the logarithm, PUCT under the root; both by hand."""
    _, first, second = hand_made()
    assert uct(first, 2.0) == pytest.approx(0.5 + 2 * sqrt(log(5) / 3))
    assert uct(second, 2.0) == pytest.approx(0.25 + 2 * sqrt(log(5) / 1))
    assert puct(first, 2.0) == pytest.approx(0.5 + 2 * 0.75 * sqrt(5) / 4)
    assert new_value(Collected(None, value=0.5, visits=3), [1.0, -1.0]) == (pytest.approx(0.3), 5)


def test_a_tree_search_never_selects_what_is_closed():
    """The final child is passed by; a selected leaf is not selected twice; visits are as they were afterwards."""
    root, first, second = hand_made()
    leaves = MCTS(parallel=4, c=0.0).select(root)
    assert [leaf.path.number for leaf in leaves] == [4, 2]
    assert (root.visits, first.visits, second.visits) == (5, 3, 1)
    back_up(first.children[1], 1.0)
    assert (root.visits, first.visits, root.total) == (6, 4, 3.0)
    first.children.pop()
    assert first.is_closed
    assert [leaf.path.number for leaf in MCTS(parallel=4).select(root)] == [2]


@pytest.mark.parametrize("uniform", [0.0, 0.3, 0.999])
def test_systematic_resampling(uniform):
    """Every place is drawn floor or ceil of n times its weight."""
    weights = softmax([logit(p) for p in (0.9, 0.5, 0.1, 0.02)])
    chosen = systematic(weights, uniform)
    assert sum(weights) == pytest.approx(1)
    for place, weight in enumerate(weights):
        assert int(4 * weight) <= chosen.count(place) <= int(4 * weight) + 1
    assert weights[0] / weights[1] == pytest.approx(9)
    assert (logit(1.0), logit(0.0)) == (40.0, -40.0)


def test_a_judge_that_lets_nothing_stand():
    """Whole texts with answers came to their ends, and none was taken: the reason and the answer's line say so."""

    class Low(Constant):
        def score(self, candidates):
            return [(0.2,) * len(c.legs) for c in candidates]

    (found,) = ask("comcts:rounds=2,until=", scorer=Low())
    assert (found.answer, found.status) == (None, "none")
    assert found.reason == "the judge cut off every leg: all are below 0, of -1 to 1"
    able = sum(s.answer is not None for s in found.samples)
    assert able
    said = answer_line(found, Palette()).plain
    assert said.startswith(
        f"no answer: {able} of {len(found.samples)} finished paths can be read, and the strategy took"
    )
