"""What the tests of folders and of .gguf files share."""

from __future__ import annotations

import bigram
import pytest
import torch

from fastsample.models import gguf


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return gguf.cache_folder()


@pytest.fixture
def logits_of():
    """The logits after a short question, [V], of a model with its tokenizer."""

    def logits(model, tokenizer):
        ids = tokenizer("2 + 2 = ?" + bigram.ASSISTANT, return_tensors="pt").input_ids
        with torch.inference_mode():
            return model(ids).logits[0, -1]

    return logits
