"""torch's fused attention: its place is taken where it is missing or answers wrongly, and results stay right."""

from __future__ import annotations

import pytest
import torch

from fastsample.shared_prefix.attention import TailPart, attend
from fastsample.torch_ops import flash


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (lambda *_: (_ for _ in ()).throw(AttributeError("no such operator")), "has no fused attention"),
        (lambda q, k, v, mask, scale: (torch.zeros_like(q), torch.zeros(q.shape[:3])), "gives another result"),
    ],
)
def test_missing_operator_has_a_sentence_and_a_way_around(broken, sentence, monkeypatch):
    """Plain products give the same attention."""
    q, k, v = torch.randn(2, 4, 1, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    part = TailPart(k, v, None, None)
    want = attend(q, part, 0.3, None, None)
    flash.missing.cache_clear()
    monkeypatch.setattr(flash, "_run", broken)
    assert sentence in flash.missing(torch.float32)
    assert not flash.is_fastest(q, k, v)
    torch.testing.assert_close(attend(q, part, 0.3, None, None), want, rtol=0, atol=1e-6)
    monkeypatch.undo()
    flash.missing.cache_clear()
    assert flash.missing(torch.float32) is None
