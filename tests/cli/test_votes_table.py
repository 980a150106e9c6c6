"""The table of a vote in a terminal: temperatures against answers."""

from __future__ import annotations

import pytest
from rich.console import Console

from fastsample.cli.live_view import Palette
from fastsample.cli.result_view import votes_table
from fastsample.strategies.records import Result, Written


@pytest.mark.parametrize("width", [80, 100])
def test_no_name_in_the_table_of_votes_is_cut(width):
    """Where long answers leave no room, fewer of them have a column; every heading is whole, and so is every number."""
    answers = [f"a longer answer {n}" for n in range(9)]
    ended = [Written(n, 0.8, n, n, "t", a, 9_000, "eos", is_counted=n != 3) for n, a in enumerate(answers[:8])]
    samples = (*ended, Written(8, 0.8, 8, 8, "t", None, 9, "length", is_counted=True))
    votes = {"0.8": dict.fromkeys(answers[:8], 1), "1.2": {answers[0]: 3}}
    result = Result("q", "?", answers[0], "budget", "r", "majority", 9, 0, votes=votes, samples=samples, counted=8)
    console = Console(width=width, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(votes_table(result, Palette(), width))
    head, first, *_ = (line.rstrip() for line in capture.get().splitlines())
    assert head.split("  ")[-1].strip() == "tokens"
    for name in ("T", "others", "no answer", "not counted"):
        assert name in [part.strip() for part in head.split("  ")]
    assert first.endswith("72,009")
    assert first.split()[0] == "0.8"
    assert sum(map(int, first.replace(",", "").split()[1:-3])) == 8
