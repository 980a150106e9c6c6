"""The live view, drawn from questions whose state is written down here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rich.console import Console

from fastsample.cli.live_view import Board, Palette, short, state_of
from fastsample.strategies.question import Question, Settings
from fastsample.strategies.records import Written
from fastsample.strategies.self_consistency import SelfConsistency

PLAN = [(0.0, 0), (0.8, 0), (0.8, 1), (0.8, 2)]


def written(answer, tokens=10):
    return SimpleNamespace(answer=answer, tokens=tokens)


def live(tokens, text=""):
    return SimpleNamespace(tokens=[0] * tokens, text=text, request=SimpleNamespace(max_new_tokens=256))


def screen(strategy, width=80):
    console = Console(width=width, force_terminal=True, color_system=None)
    board = Board(console, Palette())
    board.strategy = strategy
    board.first_token = 0.0
    with console.capture() as capture:
        console.print(board.picture())
    return capture.get().splitlines()


def test_votes_are_bars_and_names_by_temperature():
    """Three characters a sample: full for a vote, light for a sample without answer, a dot for one not finished."""
    lines = screen(
        SimpleNamespace(plan=PLAN, written={0: written("42"), 1: written("41"), 2: written(None)}, live={3: live(5)})
    )
    assert lines[0].split() == ["T", "votes", "answers", "writing", "longest", "tokens"]
    assert lines[1].split() == ["0", "███", "42", "×1", "10"]
    assert lines[2].split() == ["0.8", "███░░░···", "41", "×1", "none", "×1", "1", "5/256", "25"]
    assert lines[3].split() == ["all", "██████░░░···", "42", "×1", "41", "×1", "none", "×1", "1", "5/256", "35"]


def test_the_leader_stands_in_a_line_of_its_own():
    """Its votes of all, and by how many it is ahead; or that it is tied."""
    ended = {0: written("42"), 1: written("41"), 2: written("42")}
    lines = screen(SimpleNamespace(plan=PLAN, written=ended, live={3: live(5)}))
    assert lines[5].rstrip() == "leading  42  2 of 3 votes, 1 ahead"
    tied = screen(SimpleNamespace(plan=PLAN, written={0: written("42"), 1: written("41")}, live={3: live(5)}))
    assert tied[5].rstrip() == "leading  42  1 of 2 votes, tied"


@pytest.mark.parametrize(
    ("rule", "answers", "state"),
    [
        ("majority", "44", "majority: waits for all 4"),
        ("ahead:k=2", "", "ahead:k=2: may end at sample 2 of 4"),
        ("ahead:k=2", "4", "ahead:k=2: may end at sample 2 of 4"),
        ("ahead:k=2", "45", "ahead:k=2: waits for all 4"),
        ("ahead:k=2", "44", "ahead:k=2: has ended the vote"),
    ],
)
def test_what_the_rule_waits_for(rule, answers, state):
    """By the rule itself: after which sample it could end the vote if all to come agreed with the leader."""
    known = tuple(Written(number, 1.0, number, 7, answer, answer, 1, "eos") for number, answer in enumerate(answers))
    question = Question("?", known=known)
    strategy = SelfConsistency(question, (7,), Settings((1.0,), 4, rule=rule), lambda text: text)
    strategy.judge()
    assert state_of(strategy) == state
    assert state_of(SimpleNamespace(plan=PLAN)) == ""


def event(kind, strategy, **fields):
    return SimpleNamespace(kind=kind, strategy=strategy, **{"sample": None, **fields})


@pytest.mark.parametrize("has_bar", [True, False])
def test_a_long_prompt_is_read_behind_a_bar(has_bar):
    """From the first block on: a bar as long as what has been read, tokens and total; gone with the first token."""
    strategy = SimpleNamespace(plan=PLAN, written={}, live={0: live(0)}, prompt=(7,) * 2000)
    console = Console(width=80, force_terminal=True, color_system=None)
    board = Board(console, Palette(), has_bar=has_bar)

    def status():
        with console.capture() as capture:
            console.print(board.picture())
        return next(line for line in capture.get().splitlines() if "reading the prompt" in line or "finished" in line)

    marks = []
    for read in (0, 500, 1000, 2000):
        board(event("prompt", strategy, read=read))
        marks.append(status().count("━"))
        assert (f"{read:,} of 2,000 tokens" in status()) is has_bar
    assert marks == ([0, 5, 10, 20] if has_bar else [0] * 4)
    board(event("token", strategy, piece="a"))
    assert "tokens/s" in status()


def test_a_short_prompt_has_no_bar():
    """One block: all of it is read at once."""
    strategy = SimpleNamespace(plan=PLAN, written={}, live={0: live(0)}, prompt=(7,) * 20)
    board = Board(Console(width=80, force_terminal=True, color_system=None), Palette())
    board(event("prompt", strategy, read=20))
    with board.console.capture() as capture:
        board.console.print(board.picture())
    assert "reading the prompt" in capture.get()
    assert "of 20 tokens" not in capture.get()


def test_the_status_counts_and_the_preview_shows_the_newest_words():
    """Finished of planned, tokens, and the end of the text of the first sample that is being written, on one line."""
    text = "First we add.\nThen " + "we count " * 20 + "to 42."
    lines = screen(SimpleNamespace(plan=PLAN, written={0: written("42")}, live={1: live(5, text), 2: live(6)}))
    assert "1 of 4 finished · 21 tokens · " in lines[6]
    assert lines[7].startswith("T 0.8  …")
    assert lines[7].rstrip().endswith("we count to 42.")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width):
    """Long answers, many answers and large plans are cut, never wrapped: a wrapped line would leave remains."""
    plan = [(t, k) for k in range(64) for t in (0.4, 0.8)]
    answers = {n: written(f"answer number {n} " * 5) for n in range(100)}
    lines = screen(
        SimpleNamespace(plan=plan, written=answers, live={n: live(9, "word " * 99) for n in (101, 102)}), width
    )
    assert len(lines) == 8
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines[:4]] == ["T", "0.4", "0.8", "all"]
    assert lines[1].count("█") == round(min(20, width // 4) * 50 / 64)


def test_before_the_first_sample_it_says_what_it_waits_for():
    """No empty screen while the model gets ready."""
    assert "preparing the model" in screen(None)[0]


def test_short_keeps_one_line():
    """Blanks are merged and the rest is cut with an ellipsis."""
    assert short("a\n b") == "a b"
    assert short("x" * 17) == "x" * 15 + "…"
