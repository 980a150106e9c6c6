"""The twin: the same logits, the same parameters, and a model that nothing touches."""

from __future__ import annotations

import functools
import threading
import types

import pytest
import torch
from tiny import SHARE, tiny
from torch import nn

from fastsample.engines.local import selection
from fastsample.engines.local.runners import SharedPrefixRunner
from fastsample.models import compat
from fastsample.models.forward import Forward
from fastsample.models.twin import Twin
from fastsample.shared_prefix import attention as shared_attention

IDS = torch.tensor([[3, 40, 17, 5]])


def state_of(model):
    """Everything that a step could leave behind: each module's attributes, and what its config says of attention."""
    return [
        (dict(vars(m)), dict(m._modules), dict(m._buffers), compat.attention_of(getattr(m, "config", None)))
        for m in model.modules()
    ]


@torch.inference_mode()
@pytest.mark.parametrize("is_fast", [False, True])
@pytest.mark.parametrize("name", SHARE)
def test_twin_says_what_the_model_says(name, is_fast):
    """The same logits by the model's own attention; with oneDNN's linear layers within rounding."""
    model = tiny(name)
    before = state_of(model)
    twin = Twin(model, is_fast=is_fast).attend_by(None)
    torch.testing.assert_close(twin(IDS).logits, model(IDS).logits, rtol=0, atol=1e-4 if is_fast else 0)
    assert state_of(model) == before
    assert {id(p) for p in twin.parameters()} == {id(p) for p in model.parameters()}
    assert not {id(m) for m in twin.modules()} & {id(m) for m in model.modules()}


def test_twin_sees_what_happens_to_the_parameters():
    """Written to in place, replaced, and hooks that are registered later: all count in the running twin."""
    model = tiny("llama")
    twin = Twin(model).attend_by(None)
    with torch.no_grad():
        before = twin(IDS).logits
        model.lm_head.weight.mul_(2)
        torch.testing.assert_close(twin(IDS).logits, 2 * before)
        model.lm_head.weight = nn.Parameter(torch.zeros_like(model.lm_head.weight))
        assert not twin(IDS).logits.any()
        calls = []
        model.lm_head.register_forward_hook(lambda *_: calls.append(1))
        twin(IDS)
    assert calls == [1]


def change_attribute(model):
    model.model.layers[0].self_attn.scaling *= 2


def change_module(model):
    model.model.layers[1] = nn.Identity()


def change_buffer(model):
    model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq * 2


def change_forward(model):
    model.lm_head.forward = lambda x: torch.zeros(*x.shape[:-1], 101)


@pytest.mark.parametrize("change", [change_attribute, change_module, change_buffer, change_forward])
def test_other_changes_are_noticed_before_rows_join(change):
    """An attribute, a module, a buffer, a forward of somebody's own: the twin is no longer current and is renewed."""
    model = tiny("llama")
    forward = Forward(model)
    assert forward.twin.is_current()
    change(model)
    assert not forward.twin.is_current()
    if change is not change_module:
        forward.refresh()
        assert forward.twin.is_current()
        with torch.inference_mode():
            torch.testing.assert_close(forward(IDS, None)[0], model(IDS).logits[:, -1], rtol=0, atol=1e-4)


def wrap_in_a_closure(model):
    """As TRL's trainers do: a method whose function holds the forward that was there, bound to the model."""
    original, itself = model.forward, id(model)

    @functools.wraps(type(model).forward)
    def forward(self, *args, extra=False, **kwargs):
        assert id(self) != itself
        return forward if extra else original(*args, **kwargs)

    model.forward = types.MethodType(forward, model)


def wrap_twice(model):
    """As accelerate does for mixed precision around that: an object that calls, inside a function."""
    wrap_in_a_closure(model)

    class Converting:
        def __init__(self, inner):
            self.inner = inner
            functools.update_wrapper(self, inner)

        def __call__(self, *args, **kwargs):
            return self.inner(*args, **kwargs)

    converting = Converting(model.forward.__func__)

    def forward(*args, **kwargs):
        return converting(*args, **kwargs)

    forward.__wrapped__ = converting
    model.forward = types.MethodType(forward, model)


@pytest.mark.parametrize("wrap", [wrap_in_a_closure, wrap_twice])
def test_a_forward_that_was_wrapped_reaches_the_twin(wrap):
    """Nobody but the twin's own layers is called, so that a trainer's model shares its prefix as any other."""
    model = tiny("llama")
    want = model(IDS).logits
    wrap(model)
    twin = Twin(model, is_fast=False)
    calls = []
    model.model.layers[0].forward = lambda *a, **k: calls.append(1)
    torch.testing.assert_close(twin.attend_by(None)(IDS).logits, want, rtol=0, atol=0)
    assert calls == []
    del model.model.layers[0].forward
    assert selection.why_not(model) is None


def test_mode_of_the_model_is_no_matter_and_is_left_alone():
    """A model that is being trained: the twin is in eval mode, the model stays in its own."""
    model = tiny("gpt2", resid_pdrop=0.5)
    want = Twin(model).attend_by(None)(IDS).logits
    model.train()
    twin = Twin(model)
    torch.testing.assert_close(twin.attend_by(None)(IDS).logits, want)
    assert model.training
    model.eval()
    assert twin.is_current()


def test_a_forward_that_is_bound_to_the_model_is_bound_to_the_twin():
    """accelerate and others replace `forward` by a partial or a method of the module itself."""
    model = tiny("llama")
    layer, seen = model.model.layers[0], []

    def wrapped(module, *args, **kwargs):
        seen.append(module)
        return type(module).forward(module, *args, **kwargs)

    layer.forward = functools.partial(wrapped, layer)
    twin = Twin(model).attend_by(None)
    torch.testing.assert_close(twin(IDS).logits, model(IDS).logits, rtol=0, atol=1e-4)
    assert seen == [twin.model.layers[0], layer]


def test_an_interrupted_step_leaves_the_model_as_it_was(monkeypatch):
    """Ctrl-C in the middle of our attention: nothing to undo, and plain `generate` goes on."""
    model = tiny("llama")
    runner = SharedPrefixRunner(model)
    runner.add(runner.prefill([3, 4, 5]), 2)
    before, want = state_of(model), model.generate(IDS, do_sample=False, max_new_tokens=4)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shared_attention, "attend", interrupt)
        with pytest.raises(KeyboardInterrupt):
            runner.step(torch.tensor([5, 6]))
    assert state_of(model) == before
    assert torch.equal(model.generate(IDS, do_sample=False, max_new_tokens=4), want)


def test_the_model_can_be_used_beside_a_step(monkeypatch):
    """While one thread is inside a step, another runs the plain model: the same logits as ever."""
    model = tiny("llama")
    want = model(IDS).logits
    runner = SharedPrefixRunner(model)
    runner.add(runner.prefill([3, 4, 5]), 1)
    beside, attend = [], shared_attention.attend

    def while_attending(*args):
        if not beside:
            thread = threading.Thread(target=lambda: beside.append(model(IDS).logits))
            thread.start()
            thread.join()
        return attend(*args)

    monkeypatch.setattr(shared_attention, "attend", while_attending)
    runner.step(torch.tensor([5]))
    assert torch.equal(beside[0], want)
