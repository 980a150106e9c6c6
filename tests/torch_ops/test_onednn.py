"""Linear layers through oneDNN: the same numbers, and a sentence where it is missing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastsample.torch_ops import onednn


@pytest.mark.parametrize("prepack", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 7, 8, 64, 200])
def test_same_product(prepack, bias, dtype, rows):
    """Within rounding of the float64 product, in the shape that the layer itself gives."""
    layer = nn.Linear(96, 40, bias=bias, dtype=dtype)
    if onednn.why_not(layer):
        pytest.skip(onednn.why_not(layer))
    x = torch.randn(rows, 1, 96, dtype=dtype)
    with torch.inference_mode():
        got = onednn.forward_of(layer, prepack=prepack)(x)
    weight, offset = layer.weight.detach().double(), layer.bias.detach().double() if bias else 0
    want = x.double() @ weight.T + offset
    assert got.shape == (rows, 1, 40)
    assert got.dtype == dtype
    assert float((got - want).abs().max()) <= (1e-5 if dtype == torch.float32 else 3e-2)
    assert "forward" not in vars(layer)


def test_changed_weights_are_packed_again():
    """A weight that was written to, or replaced, after packing counts."""
    layer = nn.Linear(32, 16)
    if onednn.why_not(layer):
        pytest.skip(onednn.why_not(layer))
    forward, x = onednn.forward_of(layer, prepack=True), torch.randn(4, 32)
    with torch.no_grad():
        layer.weight.mul_(2)
        torch.testing.assert_close(forward(x), layer(x))
        layer.weight = nn.Parameter(torch.randn(16, 32))
        torch.testing.assert_close(forward(x), layer(x))


def test_missing_operator_has_a_sentence(monkeypatch):
    """Where torch lacks the private operators, or they answer wrongly, that is said."""
    layer = nn.Linear(32, 16)
    for broken, sentence in (
        (lambda *_: (_ for _ in ()).throw(AttributeError("no such operator")), "has no oneDNN linear operator"),
        (lambda x, w, b: torch.zeros(3, 1, 32), "gives another result"),
    ):
        onednn.missing.cache_clear()
        monkeypatch.setattr(onednn, "_run", broken)
        assert sentence in onednn.why_not(layer)
    onednn.missing.cache_clear()


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
    assert sentence in onednn.why_not(nn.Sequential(model))
    assert onednn.packed_bytes(nn.Sequential(model)) == 0
