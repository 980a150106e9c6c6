"""Ctrl-C at a line of the package, at one of the times that it runs; then the engine goes on.

Every runner writes a scenario of two prompts, a cancelled sample, parked and continued texts. Whoever is interrupted
looks at what there is and goes on. The samples must be those of a run without an interrupt, and nothing may be left.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from interrupts import CASES, Interrupts, Scenario, interrupted, state_of
from tiny import tiny

WHAT = "Ctrl-C before any line of the package that an engine runs, then going on, every runner"
COUNTED = "interrupts"


class Case(NamedTuple):
    """A model and its runner; what it writes; how many lines it runs, each counted as often as it runs."""

    name: str
    model: torch.nn.Module
    kind: Any
    want: dict[object, Any]
    state: object
    lines: int
    places: int


def prepare(place: Path) -> list[Case]:
    """Each runner's scenario, without an interrupt."""
    torch.set_num_threads(1)
    cases = []
    for name, kind in CASES:
        model = tiny(name)
        want, state = Scenario(model, kind).go_on(), state_of(model)
        scenario = Scenario(model, kind)
        with Interrupts() as log:
            scenario.go_on()
        cases.append(Case(name, model, kind, want, state, log.lines, len(log.visits)))
    return cases


def turn(prepared: list[Case], choose: random.Random) -> Counter[str]:
    """One interrupt."""
    case = choose.choice(prepared)
    at = choose.randint(1, case.lines)
    found = interrupted(case.model, case.kind, at, case.want, case.state)
    assert found is None, f"{case.name} by {case.kind.__name__}, {found}"
    return Counter({"interrupts": 1, f"of {case.kind.name}": 1})
