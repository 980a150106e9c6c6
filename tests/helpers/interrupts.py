"""An engine that is interrupted at a chosen line of the package, and goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from plain import Letters
from tiny import OWN_CACHES

import fastsample
from fastsample.engines.base import Request
from fastsample.engines.local.engine import LocalEngine
from fastsample.engines.local.graphed import GraphedRunner
from fastsample.engines.local.runners import ExpandedCacheRunner, RecomputeRunner, SharedPrefixRunner
from fastsample.models import attention

PACKAGE = str(Path(fastsample.__file__).parent)
PROMPTS = ((5, 6, 7, 8), (9, 4))
RECURRENT = RecomputeRunner if "mamba" in OWN_CACHES else ExpandedCacheRunner
CASES = [("llama", SharedPrefixRunner), ("mistral", SharedPrefixRunner), ("llama", ExpandedCacheRunner),
         ("mamba", RECURRENT), ("llama", RecomputeRunner), ("mistral", GraphedRunner)]  # fmt: skip


class Interrupts:
    """Raises KeyboardInterrupt once, before line number `at` of those that run under `where`; notes all visits."""

    def __init__(self, at=None, where=PACKAGE):
        self.at = at
        self.where = where
        self.lines = 0
        self.visits = {}

    def __enter__(self):
        sys.settrace(self._call)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def _call(self, frame, event, arg):
        return self._line if frame.f_code.co_filename.startswith(self.where) else None

    def _line(self, frame, event, arg):
        if event == "line":
            self.lines += 1
            self.visits.setdefault((frame.f_code.co_filename, frame.f_lineno), []).append(self.lines)
            if self.lines == self.at:
                raise KeyboardInterrupt
        return self._line


def points(visits):
    """The first, the middle and the last visit of every line, sorted."""
    return sorted({at for seen in visits.values() for at in (seen[0], seen[len(seen) // 2], seen[-1])})


class Scenario:
    """Two prompts in three slots, with a cancel, a refill, a parked path, an appended fork and a cut.

    Whoever is interrupted looks at what there is and goes on from there, as a person at a prompt would.
    """

    def __init__(self, model, kind):
        self.pieces = {}
        self.engine = LocalEngine(model, Letters(), slots=3, runner=kind(model), on_piece=self._hear)
        self.samples = {}
        self.cut = None

    def _hear(self, sample, piece):
        key = sample.request.key
        self.pieces[key] = self.pieces.get(key, "") + piece

    def _submit(self, *requests):
        """Those that are not there yet: an interrupted `submit` may have queued them."""
        have = {s.request.key: s for s in [*self.engine.waiting, *self.engine.running, *self.samples.values()]}
        new = [r for r in requests if r.key not in have]
        self.samples |= {r.key: have[r.key] for r in requests if r.key in have}
        self.samples |= {s.request.key: s for s in (self.engine.submit(new) if new else [])}

    def go_on(self):
        """To the end; every part does nothing where it has been done."""
        plain = {"temperature": 0.9, "seed": 3, "max_new_tokens": 4, "eos": ()}
        self._submit(*(Request(PROMPTS[i % 2], stream=i, key=i, park=i == 0, **plain) for i in range(5)))
        while self.samples[0].finish is None:
            if len(self.samples[1].tokens) >= 2:
                self.engine.cancel([self.samples[1]])
            self.engine.step()
        ids = (*PROMPTS[0], *self.samples[0].tokens)
        after = {"after": self.samples[0].parked, **plain}
        self._submit(
            Request(ids, stream=8, key="a", append=(11, 12), **after), Request(ids, stream=9, key="b", **after)
        )
        while not self.engine.is_idle:
            self.engine.step()
        self.cut = self.engine.cut(self.samples[0].parked, 6)
        return {
            **{key: (s.tokens, s.stats[s.appended :], s.text, s.finish) for key, s in self.samples.items() if key != 1},
            "cut": self.cut._prefix.logits,
            "read": self.engine.read(self.cut, (5, 6)),
        }


def state_of(model):
    """Everything that is hung on the model's modules, and the way that it attends."""
    return [sorted(vars(m)) for m in model.modules()], model.config._attn_implementation, model.training


def interrupted(model, kind, at, want, state, where=PACKAGE):
    """An objection, or None."""
    scenario = Scenario(model, kind)
    with Interrupts(at, where) as lines:
        try:
            got = scenario.go_on()
        except KeyboardInterrupt:
            got = None
    assert lines.lines >= at
    if attention._stepped.get()[0] is not None:
        return f"line {at}: this thread is left inside a step"
    try:
        got = scenario.go_on() if got is None else got
    except Exception as error:
        return f"line {at}: {type(error).__name__}: {error}"
    if not all(torch.equal(got[k], w) if k == "cut" else got[k] == w for k, w in want.items()):
        return f"line {at}: other samples"
    if scenario.engine.runner.rows or state_of(model) != state:
        return f"line {at}: something is left behind"
    return None
