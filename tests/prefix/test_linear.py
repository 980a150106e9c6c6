"""Linear layers through oneDNN: the same numbers, nothing left on the model, and a way back where it is missing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastsample import linear
from fastsample.linear import Linears


@pytest.mark.parametrize("prepack", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 7, 8, 64, 200])
def test_same_product(prepack, bias, dtype, rows):
    """Within rounding of the float64 product, in the shape that the layer itself gives."""
    model = nn.Sequential(nn.Linear(96, 40, bias=bias, dtype=dtype))
    if linear.why_not(model):
        pytest.skip(linear.why_not(model))
    x = torch.randn(rows, 1, 96, dtype=dtype)
    with torch.inference_mode(), Linears(model, prepack=prepack).fast():
        got = model(x)
    weight, offset = model[0].weight.detach().double(), model[0].bias.detach().double() if bias else 0
    want = x.double() @ weight.T + offset
    assert got.shape == (rows, 1, 40)
    assert got.dtype == dtype
    assert float((got - want).abs().max()) <= (1e-5 if dtype == torch.float32 else 3e-2)
    assert "forward" not in vars(model[0])


def test_changed_weights_are_packed_again():
    """A weight that was written to after packing counts."""
    model = nn.Sequential(nn.Linear(32, 16))
    if linear.why_not(model):
        pytest.skip(linear.why_not(model))
    linears = Linears(model, prepack=True)
    with torch.no_grad():
        model[0].weight.mul_(2)
        x = torch.randn(4, 32)
        with linears.fast():
            torch.testing.assert_close(model(x), nn.functional.linear(x, model[0].weight, model[0].bias))


def test_someone_elses_forward_and_hooks_stay():
    """A replaced forward is left alone, and hooks still run."""
    model = nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 8))
    linears = Linears(model)
    model[0].forward = lambda x: x[..., :16] * 0 + 1
    calls = []
    model[1].register_forward_hook(lambda *_: calls.append(1))
    with linears.fast():
        out = model(torch.randn(9, 32))
    assert calls == [1]
    torch.testing.assert_close(out, model[1](torch.ones(9, 16)))


def test_missing_operator_has_a_sentence(monkeypatch):
    """Where torch lacks the private operators, or they answer wrongly, the model's own layers run."""
    model = nn.Sequential(nn.Linear(32, 16))
    for broken, sentence in (
        (lambda *_: (_ for _ in ()).throw(AttributeError("no such operator")), "has no oneDNN linear operator"),
        (lambda x, w, b: torch.zeros(3, 1, 32), "gives another result"),
    ):
        linear.missing.cache_clear()
        monkeypatch.setattr(linear, "_run", broken)
        linears = Linears(model, prepack=True)
        assert sentence in linears.objection
        x = torch.randn(9, 32)
        with linears.fast():
            torch.testing.assert_close(model(x), nn.functional.linear(x, model[0].weight, model[0].bias))
    linear.missing.cache_clear()


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (nn.ReLU(), "no plain linear layer"),
        (nn.Linear(4, 4, dtype=torch.float64), "float64"),
        (nn.Linear(4, 4, device="meta"), "on meta"),
    ],
)
def test_why_not(model, sentence):
    """Each objection is a sentence, and packing then costs nothing."""
    assert sentence in linear.why_not(nn.Sequential(model))
    assert linear.packed_bytes(nn.Sequential(model)) == 0
