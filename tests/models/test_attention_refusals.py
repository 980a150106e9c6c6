"""What the registered attention and mask functions refuse."""

from __future__ import annotations

import pytest
import torch

from fastsample.models import attention
from fastsample.shared_prefix.attention import TailPart


class HandedOut:
    """A cache that handed out one part."""

    def __init__(self, part):
        self.part = part

    def part_of(self, key, value):
        return self.part if key is self.part.keys and value is self.part.values else None


def test_attention_refuses_what_it_cannot_do():
    """Foreign K/V, dropout, another window, a position bias and padding are refused, each in a sentence."""
    q, k, v = torch.randn(1, 2, 1, 8), torch.randn(1, 2, 3, 8), torch.randn(1, 2, 3, 8)
    module, cache = torch.nn.Identity(), HandedOut(TailPart(k, v, None, 7))
    call = attention.shared_attention

    def in_step(value, **more):
        return attention.in_step(cache, lambda: call(module, q, k, value, None, **more))

    refused = {
        "between the cache and the attention": (v.clone(), {}),
        "dropout": (v, {"dropout": 0.1}),
        "a window of 9, its cache 7": (v, {"sliding_window": 9}),
        "position bias": (v, {"position_bias": torch.zeros(1)}),
    }
    for sentence, (value, more) in refused.items():
        with pytest.raises(attention.SharingError, match=sentence):
            in_step(value, **more)
    assert in_step(v, sliding_window=7)[0].shape == (1, 1, 2, 8)
    with pytest.raises(attention.SharingError, match="outside of a step"):
        call(module, q, k, v, None)
    with pytest.raises(attention.SharingError, match="attention_mask holds zeros"):
        attention.shared_mask(attention_mask=torch.tensor([[0, 1, 1]]))
