"""What a log gets of a long evaluation, where there is no terminal."""

from __future__ import annotations

import io
import time

from rich.console import Console

from fastsample.cli.progress_lines import SECONDS, Lines, in_words


def test_a_line_comes_even_while_nothing_is_answered():
    """From a thread of its own, at its pace, and never again once the work is over."""
    log = io.StringIO()
    with Lines(Console(file=log), 500, every=0.02) as lines:
        lines.begin(120)
        time.sleep(0.15)
    said = log.getvalue().splitlines()
    assert len(said) >= 2
    assert set(said) == {"120 of 500 questions, 0 s so far"}
    time.sleep(0.05)
    assert log.getvalue().splitlines() == said
    assert SECONDS == 30


def test_a_terminal_gets_no_lines():
    """It has a bar."""
    log = io.StringIO()
    with Lines(Console(file=log, force_terminal=True), 500, every=0.01):
        time.sleep(0.05)
    assert log.getvalue() == ""


def test_the_time_left_is_reckoned_from_this_session(monkeypatch):
    """What an earlier session answered took no time of this one."""
    lines = Lines(Console(file=io.StringIO()), 100)
    lines.begin(40)
    for _ in range(20):
        lines.advance()
    lines.words = "35% right, 12,000 tokens"
    lines._since = time.monotonic() - 60
    assert lines.line() == "60 of 100 questions, 35% right, 12,000 tokens, 1 min 00 s so far, about 2 min 00 s left"
    assert [in_words(s) for s in (59.4, 83, 4000)] == ["59 s", "1 min 23 s", "1 h 06 min"]
