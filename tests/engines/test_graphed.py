"""The step of a CUDA graph, run without one: the same tokens, nothing set that the device has, nothing waited for."""

from __future__ import annotations

import pytest
import torch
from plain import PROMPTS, requests, write
from tiny import tiny

from fastsample.engines.base import Request
from fastsample.engines.local import graphed
from fastsample.engines.local.engine import LocalEngine
from fastsample.engines.local.graphed import GraphedRunner
from fastsample.fallback import FallbackWarning
from fastsample.models.fixed import Sizes


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_tokens_equal_the_plain_path(model, slots):
    """Rows of three prompts that leave and are replaced, at several temperatures and filters."""
    engine = LocalEngine(model, None, slots=slots, runner=GraphedRunner(model))
    samples = engine.submit(requests())
    engine.run()
    for s in samples:
        assert s.tokens == write(model, s.request)


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss", "mistral", "qwen2-2"])
def test_tokens_equal_the_plain_path_elsewhere(name):
    """Soft-capping, sinks, and windows whose ring goes round."""
    model = tiny(name)
    engine = LocalEngine(model, None, slots=4, runner=GraphedRunner(model))
    samples = engine.submit(requests())
    engine.run()
    for s in samples:
        assert s.tokens == write(model, s.request)


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral", "qwen2-2"])
def test_a_step_waits_for_nothing(name):
    """On the meta device, where no tensor holds a number: whatever a step looked at on the host would fail."""
    model = tiny(name).to("meta")
    try:
        model(torch.zeros(1, 2, dtype=torch.long, device="meta"))
    except RuntimeError as error:  # older releases ask PyTorch for an autocast of every device
        pytest.skip(f"this transformers has no forward pass on the meta device: {error}")
    runner = GraphedRunner(model)
    runner.watch(1)
    prefix = runner.prefill(PROMPTS[0])
    runner.add(prefix, 3)
    step = runner._step_for(runner.cache)
    with torch.inference_mode():
        step._run()
    assert step.logits.is_meta
    assert step.logits.shape[0] == 4  # three rows, rounded up
    assert step.states[1].shape[0] == 4
    assert step._packed.shape == (5, 4)


class Recorded(graphed.FixedStep):
    """Notes the sizes that steps are made for, and what each run had to set first."""

    made, loads = [], []

    def __init__(self, forward, cache, sizes, storage):
        super().__init__(forward, cache, sizes, storage)
        self.made.append(sizes)

    def load(self, tokens, columns):
        names = tuple(row.name for row in self.shared.rows)
        state = [list(tokens), self.shared.positions, self.shared.lengths]
        self.loads.append((names != self._names, state != self._known, columns is not self._columns))
        super().load(tokens, columns)


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(graphed, "FixedStep", Recorded)
    monkeypatch.setattr(Recorded, "made", [])
    monkeypatch.setattr(Recorded, "loads", [])
    return Recorded


def test_a_step_behind_another_sets_nothing(model, recorded):
    """Tokens, positions, lengths and parameters are on the device already."""
    engine = LocalEngine(model, None, slots=4, runner=GraphedRunner(model))
    engine.submit(requests(3, max_new_tokens=20, eos=()))
    engine.run()
    assert len(recorded.loads) == 19
    assert recorded.loads[0] == (True, True, True)
    assert set(recorded.loads[1:]) == {(False, False, False)}


def test_rows_leave_and_join_without_another_graph(model, recorded):
    """Eight slots, twenty samples of three prompts: one step for eight rows, and one for each half of them."""
    engine = LocalEngine(model, None, slots=8, runner=GraphedRunner(model))
    engine.submit(requests(20, max_new_tokens=12))
    engine.run()
    rows = [sizes.rows for sizes in recorded.made]
    assert set(rows) <= {8, 4, 2, 1}
    assert len(recorded.made) == len(set(recorded.made))  # none is made twice


def test_a_longer_tail_is_another_graph(model, recorded, monkeypatch):
    """Its storage doubles and lies elsewhere; the tokens stay right."""
    monkeypatch.setattr(graphed, "FIRST_COLUMNS", 16)
    engine = LocalEngine(model, None, slots=2, runner=GraphedRunner(model))
    samples = engine.submit(requests(2, max_new_tokens=40, eos=()))
    engine.run()
    assert recorded.made == [Sizes(2, 2, 2, 1)] * 3  # 16, 32 and 64 columns
    assert [s.tokens for s in samples] == [write(model, s.request, ()) for s in samples]


def test_edited_rows_are_drawn_by_the_engine(model):
    """A minimum length, a processor, and a sample that is closed by a step of its own."""

    def double(ids, scores):
        return scores * 2

    asked = [*requests(3, min_new_tokens=8), *requests(2, logits_processor=[double]), *requests(2, park=True)]
    asked = [Request(**{**vars(r), "stream": i}) for i, r in enumerate(asked)]
    found = []
    for runner in (GraphedRunner(model), None):
        engine = LocalEngine(model, None, slots=4, runner=runner)
        samples = engine.submit(asked)
        engine.run()
        found.append([(s.tokens, s.finish) for s in samples])
    assert found[0] == found[1]


def test_statistics_are_those_of_the_other_runner(model):
    """Log-probabilities, entropy and certainty of every token."""
    found = []
    for runner in (GraphedRunner(model), None):
        engine = LocalEngine(model, None, slots=4, runner=runner)
        samples = engine.submit(requests(4))
        engine.run()
        found.append(torch.tensor([tuple(stats) for s in samples for stats in s.stats]))
    assert torch.allclose(*found, atol=1e-5)


def test_a_row_without_a_valid_logit_fails_alone(model):
    """Its neighbours' tokens stay what they are."""
    broken = tiny("llama")
    engine = LocalEngine(broken, None, slots=4, runner=GraphedRunner(broken))
    samples = engine.submit(requests(3, max_new_tokens=6, eos=()))
    engine.step()
    row = engine.runner.cache.rows[1]
    layer = engine.runner.cache.layers[0]
    with torch.inference_mode():
        layer.values[1, :, : row.length] = torch.nan
    engine.run()
    assert [s.finish for s in samples] == ["length", "failed", "length"]
    assert samples[0].tokens == write(broken, samples[0].request, ())


def test_a_path_is_gone_on_from(model):
    """Parked by one engine's row and continued by two: the text that one request would have written."""
    engine = LocalEngine(model, None, slots=4, runner=GraphedRunner(model))
    whole = Request(PROMPTS[0], temperature=0.9, seed=3, stream=5, max_new_tokens=20, eos=())
    (first,) = engine.submit([Request(**{**vars(whole), "max_new_tokens": 8, "park": True})])
    engine.run()
    ids = (*PROMPTS[0], *first.tokens)
    rest = {**vars(whole), "prompt": ids, "after": first.parked, "max_new_tokens": 12}
    second, other = engine.submit([Request(**rest), Request(**{**rest, "stream": 6})])
    engine.run()
    assert first.tokens + second.tokens == write(model, whole, ())
    assert other.tokens != second.tokens


def test_what_cannot_be_captured_is_told_and_stepped_without(model, monkeypatch):
    """One warning with the reason and the cost; the tokens are right."""

    def refuse(self):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphed, "can_capture", lambda device: True)
    monkeypatch.setattr(graphed.FixedStep, "capture", refuse)
    engine = LocalEngine(model, None, slots=4, runner=GraphedRunner(model))
    samples = engine.submit(requests(3))
    with pytest.warns(FallbackWarning, match="several times as long; the reason: operation not permitted when") as told:
        engine.run()
    assert len(told) == 1
    assert [s.tokens for s in samples] == [write(model, s.request) for s in samples]
