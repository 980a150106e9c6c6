"""The reference draws where no kernel can, and says so."""

from __future__ import annotations

import warnings

import pytest
import torch

import fastsample
from fastsample.sampling import dispatch
from fastsample.sampling.backends import cpu


def test_a_missing_kernel_is_said_once_and_changes_no_token(monkeypatch):
    """Without the compiled extension: the same tokens, one warning with the reason, at the caller's own line."""
    logits = torch.randn(3, 500, generator=torch.Generator().manual_seed(0))
    want = fastsample.sample(logits, seed=7, top_p=0.9)
    dispatch._say.cache_clear()
    monkeypatch.setattr(cpu, "why_not", lambda case: "the compiled extension is missing")
    with pytest.warns(fastsample.FallbackWarning, match=r"drawn by the reference.*cpu cannot \(the compiled") as told:
        assert torch.equal(fastsample.sample(logits, seed=7, top_p=0.9), want)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastsample.sample(logits)
    dispatch._say.cache_clear()
