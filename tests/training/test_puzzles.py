"""Puzzles: every view's inverse is its inverse, what is left out is not shown, files and their mistakes."""

from __future__ import annotations

import json
import random

import pytest

from fastsample.evaluation.dataset import RunError
from fastsample.training.puzzles import (
    END,
    OF_A_LINE,
    SYMMETRIES,
    Pair,
    Puzzle,
    View,
    grid_in,
    ids_of,
    mirrored,
    pieces_of,
    puzzle_of,
    read_puzzles,
    text_of,
    turned,
    views_of,
    without,
)
from fastsample.training.test_time import elected, lessons_of

OBLONG = ((1, 2, 3), (4, 5, 0))
PLAIN = tuple(range(10))
LINE = Puzzle("line", tuple(Pair(((n, 0, 5),), ((0, n, 5),)) for n in (1, 2, 3)), (Pair(((4, 0, 5),), ((0, 4, 5),)),))


def letters(text):
    """A token a character."""
    return tuple(map(ord, text))


def test_symmetries_by_hand():
    """The eight ways to lay a grid of two rows, and no two alike."""
    looks = {name: View(name, PLAIN, ()).of(OBLONG) for name in SYMMETRIES}
    assert looks == {
        "identity": OBLONG,
        "turn": ((4, 1), (5, 2), (0, 3)),
        "half-turn": ((0, 5, 4), (3, 2, 1)),
        "back-turn": ((3, 0), (2, 5), (1, 4)),
        "mirror": ((3, 2, 1), (0, 5, 4)),
        "anti-transpose": ((0, 3), (5, 2), (4, 1)),
        "flip": ((4, 5, 0), (1, 2, 3)),
        "transpose": ((1, 4), (2, 5), (3, 0)),
    }
    assert len(set(looks.values())) == 8
    assert turned(OBLONG, -1) == turned(OBLONG, 3)
    assert mirrored(mirrored(OBLONG)) == OBLONG


def test_every_inverse_is_its_inverse():
    """A thousand grids, in views of every symmetry with other colours and orders; 0 stays the ground."""
    draw = random.Random(0)
    views = views_of(tuple(SYMMETRIES), 3, 5, colours=True, seed="x")
    for _ in range(1000):
        grid = tuple(tuple(draw.randrange(10) for _ in range(4)) for _ in range(draw.randint(1, 4)))
        grid = tuple(row[: len(grid[0])] for row in grid)
        view = draw.choice(views)
        assert view.back(view.of(grid)) == grid
        assert view.of(view.back(grid)) == grid
    assert {view.colours[0] for view in views} == {0}
    assert len({(v.symmetry, v.colours, v.order) for v in views}) > 30
    assert all(v.colours == PLAIN and v.order == (0, 1, 2) for v in views[::5])
    assert views == views_of(tuple(SYMMETRIES), 3, 5, colours=True, seed="x")
    assert views != views_of(tuple(SYMMETRIES), 3, 5, colours=True, seed="y")
    assert {v.colours for v in views_of(["identity"], 3, 5, colours=False, seed="x")} == {PLAIN}


def test_a_line_stays_a_line():
    """A puzzle of lines is not turned; one with a grid is."""
    assert LINE.symmetries() == OF_A_LINE
    assert all(len(View(name, PLAIN, ()).of(((1, 2, 3),))) == 1 for name in OF_A_LINE)
    assert Puzzle("x", (Pair(OBLONG, ((1,),)),), LINE.test).symmetries() == tuple(SYMMETRIES)


def test_text_and_back():
    """A grid is read as it was written; what is none is none."""
    assert text_of(OBLONG) == "123\n450"
    assert grid_in("123\n450" + END + "input\n9") == OBLONG
    assert grid_in("7") == ((7,),)
    for text in ("", "12\n3", "1 2", "input", "²", "1" * 31, "\n".join("1" * 31), "\n\n1"):
        assert grid_in(text) is None, text
    assert "".join(text for text, _ in pieces_of(LINE.train[:1])) == "input\n105\noutput\n015\n\n"


def test_what_is_learnt_is_every_output_but_the_first():
    """By hand: the tokens of the second output and its end, and none of any input."""
    ids, learnt = ids_of(LINE.train[:2], letters)
    text = "".join(map(chr, ids))
    assert text == "input\n105\noutput\n015\n\ninput\n205\noutput\n025\n\n"
    assert "".join(c for c, is_learnt in zip(text, learnt) if is_learnt) == "025\n\n"
    asked = ids_of([*LINE.train[:1], Pair(LINE.test[0].input, None)], letters)[0]
    assert "".join(map(chr, asked)).endswith("input\n405\noutput\n")


def test_what_is_left_out_is_shown_last_and_only_there():
    """Each pair in turn; the others in front of it, in every lesson, whatever the view."""
    assert without("abc", 1) == ["a", "c", "b"]
    lessons = lessons_of(LINE, letters, most=30)
    assert len(lessons) == 30
    firsts = ["".join(map(chr, lesson.ids)) for lesson in lessons[:3]]  # the plain view, each pair left out once
    assert [text.split(END)[2].split("\n")[1] for text in firsts] == ["105", "205", "305"]
    for lesson in lessons:
        shown = "".join(map(chr, lesson.ids)).split(END)[:-1]
        inputs = [pair.split("\n")[1] for pair in shown]
        assert len(set(inputs)) == 3
        assert sum(lesson.learnt) == 2 * len("015" + END)
    assert len({lesson.ids for lesson in lessons}) > 25
    assert lessons_of(Puzzle("one", LINE.train[:1], LINE.test), letters) == []


def test_the_hidden_output_teaches_nothing():
    """Another output of the test, or none: the same lessons, compared with ==. The twin: another training pair."""
    for output in (((9, 9, 9),), None):
        other = Puzzle("line", LINE.train, (Pair(LINE.test[0].input, output),))
        assert lessons_of(other, letters) == lessons_of(LINE, letters)
    changed = Puzzle("line", (*LINE.train[:2], Pair(((3, 0, 5),), ((9, 9, 9),))), LINE.test)
    assert lessons_of(changed, letters) != lessons_of(LINE, letters)


def test_the_vote_by_hand():
    """A voice a symmetry; three answers of each at most; ties to the identity's, then to all votes."""
    a, b, c, d = (((n,),) for n in range(4))
    assert elected([]) == ()
    assert elected([("identity", a)]) == (a,)
    # a has more votes, and b more symmetries
    assert elected([("turn", a), ("turn", a), ("turn", a), ("turn", b), ("flip", b)]) == (b, a)
    # equal voices: the identity has said c twice and d once
    said = [("identity", d), ("identity", c), ("identity", c), ("flip", a), ("flip", a), ("flip", a)]
    assert elected(said) == (c, d)
    # a fourth answer of a symmetry does not come into the last vote
    many = [("turn", g) for g in (a, a, b, b, c, c, d)] + [("flip", d), ("mirror", a)]
    assert elected(many) == (a, b)


def test_files(tmp_path):
    """ARC's own files, named by the file; lines; a folder of both."""
    record = {"train": [{"input": [[1, 2]], "output": [[2, 1]]}], "test": [{"input": [[3, 4]]}]}
    (tmp_path / "abc.json").write_text(json.dumps(record, indent=1))
    lines = [{**record, "id": "x"}, {**record, "id": 7}, record]
    (tmp_path / "more.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    found = read_puzzles([tmp_path])
    assert [p.id for p in found] == ["abc", "x", "7", "more-3"]
    assert found[0].test == (Pair(((3, 4),), None),)
    with pytest.raises(RunError, match="used before"):
        read_puzzles([tmp_path, tmp_path / "abc.json"])
    with pytest.raises(RunError, match=r"holds no \.json"):
        read_puzzles([tmp_path / "abc.json", tmp_path.joinpath("empty").mkdir() or tmp_path / "empty"])


BAD = {
    "a puzzle is an object": [1],
    "train must be a list of at least one pair": {"train": [], "test": [{"input": [[1]]}]},
    "train 1 must be an object with input and output": {"train": [{"input": [[1]]}], "test": [{"input": [[1]]}]},
    "test 1 must be an object with input,": {"train": [{"input": [[1]], "output": [[1]]}], "test": [{}]},
    "train 1, output must be 1 to 30 rows": {"train": [{"input": [[1]], "output": [[1], [1, 2]]}], "test": [0]},
    "each from 0 to 9": {"train": [{"input": [[10]], "output": [[1]]}], "test": [0]},
    "id must be text": {"id": [], "train": [0], "test": [0]},
}


@pytest.mark.parametrize("sentence", BAD)
def test_what_is_no_puzzle(sentence, tmp_path):
    """The rule, the value, and where."""
    with pytest.raises(RunError) as told:
        puzzle_of(BAD[sentence], "x")
    assert sentence in str(told.value)
    path = tmp_path / "p.jsonl"
    good = {"train": [{"input": [[1]], "output": [[1]]}], "test": [{"input": [[1]]}]}
    path.write_text(json.dumps(good) + "\n" + json.dumps(BAD[sentence]) + "\n")
    with pytest.raises(RunError, match="line 2"):
        read_puzzles([path])
