"""What every attacker is: turns that can each be taken again by seed and number, and a line that counts them.

An attacker is a file beside this one with

    WHAT      what it does, in one sentence: a row of docs/reliability.md
    COUNTED   the name of what the row counts, a key of what `turn` returns
    prepare   (place: Path) -> what all turns share; raises MissingError where this machine lacks something
    turn      (prepared, choose: Turn) -> counts; raises for anything that must not be
    keep      (prepared) -> None, where there is something to be kept for the next attack
"""

from __future__ import annotations

import json
import random
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

SHOWN = 5  # failures whose traceback is printed


class MissingError(RuntimeError):
    """This machine lacks what an attacker needs; the message says what."""


class Turn(random.Random):
    """The randomness of one turn, and its number."""

    def __init__(self, seed: int, number: int) -> None:
        super().__init__(f"{seed}/{number}")
        self.number = number


@dataclass
class Outcome:
    """What an attacker did and found."""

    attack: str
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    turns: int = 0
    failed: list[int] = field(default_factory=list)  # turns
    seconds: float = 0.0
    why_not: str | None = None

    def line(self, module: ModuleType) -> str:
        """One line of JSON: what, how many, how many turns differed, and how to run it again."""
        record = {
            "attack": self.attack,
            "what": module.WHAT,
            "count": self.counts[module.COUNTED],
            "counted": module.COUNTED,
            "different": len(self.failed),
            "seconds": round(self.seconds, 1),
            "seed": self.seed,
            "turns": self.turns,
            "failed turns": self.failed[:20],
            "counts": dict(sorted(self.counts.items())),
        }
        return json.dumps(record | ({"why not": self.why_not} if self.why_not else {}))


def attack(
    module: ModuleType, name: str, *, seconds: float, seed: int, turn: int | None = None, keeps: bool = False
) -> Outcome:
    """Take turns until the time is over, one at least; or the one turn that is named; keeps: and `keep` behind them."""
    outcome = Outcome(name, seed)
    with tempfile.TemporaryDirectory(prefix="fastsample-attack-") as folder:
        try:
            prepared: Any = module.prepare(Path(folder))
        except MissingError as error:
            outcome.why_not = str(error)
            return outcome
        start = time.monotonic()
        number = turn or 0
        while True:
            try:
                outcome.counts.update(module.turn(prepared, Turn(seed, number)))
            except Exception:
                outcome.failed.append(number)
                if len(outcome.failed) <= SHOWN:
                    print(f"{name} --seed {seed} --turn {number}:\n{traceback.format_exc()}", flush=True)
            outcome.turns += 1
            outcome.seconds = time.monotonic() - start
            number += 1
            if turn is not None or outcome.seconds >= seconds:
                break
        if keeps:
            module.keep(prepared)
    return outcome
