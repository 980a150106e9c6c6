"""KeyboardInterrupt at lines of the package, then going on: the same samples, and the model as it was."""

from __future__ import annotations

import pytest
from interrupts import CASES, PACKAGE, Interrupts, Scenario, interrupted, points, state_of
from tiny import tiny

from fastsample.engines.local import outcome
from fastsample.engines.local.runners import SharedPrefixRunner


def objections(name, kind, share, of, where=PACKAGE):
    """What goes wrong at the first, the middle and the last visit of every line; one in `of` of them, from `share`."""
    model = tiny(name)
    want, state = Scenario(model, kind).go_on(), state_of(model)
    scenario = Scenario(model, kind)
    with Interrupts(where=where) as log:
        scenario.go_on()
    every = points(log.visits)
    assert len(every) > 50
    return [o for at in every[share::of] if (o := interrupted(model, kind, at, want, state, where))]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_interrupted_at_some_lines(name, kind):
    """A few of them; the slow test tries more."""
    assert objections(name, kind, 7, 120) == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_interrupted_at_more_lines(name, kind):
    """A twenty-fourth of them. `make attack` tries all, if it has the time."""
    assert objections(name, kind, 3, 24) == []


def test_what_cannot_be_done_twice_would_be_seen(monkeypatch):
    """The twin: outcomes that are added to a sample instead of set are added twice where they were interrupted."""
    monkeypatch.setattr(outcome.Outcome, "write", _adding)
    assert objections("llama", SharedPrefixRunner, 0, 3, outcome.__file__) != []


def _adding(self):
    self.count = len(self.row.sample.tokens)
    _write(self)


_write = outcome.Outcome.write
