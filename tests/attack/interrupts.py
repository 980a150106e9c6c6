"""Ctrl-C before a line of the package, at the first, the middle or the last time that it runs; then the engine goes on.

Every runner writes a scenario of two prompts, a cancelled sample, parked and continued texts. Whoever is interrupted
looks at what there is and goes on. The samples must be those of a run without an interrupt, and nothing may be left.
The turns go through all lines of all runners, in an order that is mixed once.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from interrupts import CASES, Interrupts, Scenario, interrupted, points, state_of
from tiny import tiny

from attack.engine import name_of
from attack.turns import Turn

WHAT = "Ctrl-C before each line of the package that an engine runs, then going on, every runner"
COUNTED = "interrupts"


class Case(NamedTuple):
    """A model and its runner, what it writes, and how the model is."""

    name: str
    model: torch.nn.Module
    kind: Any
    want: dict[object, Any]
    state: object


def prepare(place: Path) -> list[tuple[Case, int]]:
    """Each runner's scenario, without an interrupt, and every place where one can strike."""
    torch.set_num_threads(1)
    every = []
    for name, kind in CASES:
        model = tiny(name)
        case = Case(name, model, kind, Scenario(model, kind).go_on(), state_of(model))
        scenario = Scenario(model, kind)
        with Interrupts() as log:
            scenario.go_on()
        every += [(case, at) for at in points(log.visits)]
    random.Random(0).shuffle(every)
    return every


def turn(prepared: list[tuple[Case, int]], choose: Turn) -> Counter[str]:
    """One interrupt."""
    case, at = prepared[choose.number % len(prepared)]
    found = interrupted(case.model, case.kind, at, case.want, case.state)
    assert found is None, f"{case.name} by {case.kind.__name__}, {found}"
    is_last = (choose.number + 1) % len(prepared) == 0
    return Counter({"interrupts": 1, f"of {name_of(case.kind)}": 1, "times through all of them": int(is_last)})
