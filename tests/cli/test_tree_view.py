"""The live view of a growing tree, drawn from trees whose paths are written down here."""

from __future__ import annotations

import pytest
from rich.console import Console

from fastsample.cli.live_view import Board, Palette
from fastsample.cli.tree_view import state_of, tree_table
from fastsample.engines.base import Traits
from fastsample.strategies.events import Event
from fastsample.strategies.path import Path
from fastsample.strategies.question import Question, Settings
from fastsample.strategies.search import Search
from fastsample.strategies.tree import Tools, Tree


def tree_of(*levels):
    """A tree from rows of (finish, fate, score); every path continues the first one of the row above."""
    tree = Tree(Tools("beam", None, None), 0, 0, 100)
    parent = tree.root((1, 2))
    for row in levels:
        made = []
        for finish, fate, score in row:
            path = Path(
                len(tree.paths), parent, (1, 2), (7,) * 3, finish=finish, fate=fate, scores=(score,) * bool(score)
            )
            tree.paths.append(path)
            made.append(path)
        parent = made[0]
    return tree


def drawn(tree, width):
    console = Console(width=width, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(tree_table(tree, width))
    return capture.get().splitlines()


def test_a_row_for_each_depth_and_a_mark_for_each_path():
    """Kept, finished, dropped, being written; the best score and the tokens of the row."""
    lines = drawn(tree_of([("until", "", 0.5), ("until", "dropped", 0.25)], [("eos", "", 0.75), ("", "", 0)]), 80)
    assert lines[0].split() == ["leg", "paths", "of", "them", "best", "score", "tokens"]
    assert lines[1].split() == ["1", "█░", "1", "of", "2", "0.500", "6"]
    assert lines[2].split() == ["2", "●·", "1", "of", "2", "0.750", "6"]
    assert state_of(Path(1, Path(0, None, (1,)), (1,), finish="cancelled")) == "dropped"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width):
    """64 paths in 40 rows are cut, never wrapped."""
    lines = drawn(tree_of(*[[("until", "", 0.123456)] * 64] * 40), width)
    assert max(map(len, lines)) <= width
    assert len(lines) <= 13
    if width >= 80:
        assert lines[1].count("█") == 32


def test_the_board_shows_the_tree_and_a_line_for_each_answer_elsewhere():
    """On a terminal the table and how far it is; in a pipe one line for each finished path."""

    class Engine:
        traits = Traits("fake", "", parks=True)

        def release(self, parked):
            """Nothing."""

    def method(task):
        yield from ()
        return task.choose([])

    search = Search(method, Tools("beam", Engine(), None), Question("q"), (1, 2), Settings(), str)
    search.tree = tree_of([("until", "", 0.5)])
    console = Console(width=80, force_terminal=True, color_system=None)
    board = Board(console, Palette())
    board.strategy = search
    with console.capture() as capture:
        console.print(board.picture())
    assert "round 0 · 0 finished · 0 tokens" in capture.get()
    plain = Console(width=80, force_terminal=False, color_system=None)
    board = Board(plain, Palette())
    path = Path(3, search.tree.paths[1], (1, 2), (4,), text="4", finish="eos", answer="4\n2")
    with plain.capture() as capture:
        board(Event("leg", search, paths=(path,)))
    assert capture.get() == "path 3: 4 2 (2 legs, eos)\n"
