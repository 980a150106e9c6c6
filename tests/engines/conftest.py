"""vLLM's two doors over a stand-in of it."""

import pytest
import vllm_standin
from scripted import Characters


@pytest.fixture
def fast_draw(monkeypatch):
    """FastDraw, made over the stand-in's two base classes."""
    return vllm_standin.stand_in(monkeypatch)


@pytest.fixture
def engine_of(fast_draw):
    """VllmEngine over the stand-in."""
    from fastsample.engines.vllm.engine import VllmEngine

    def make(*, logprobs=False, on_piece=None, slots=None, **settings):
        inner = vllm_standin.LLMEngine(fast_draw, Characters(), **{"slots": 8, **settings})
        return VllmEngine(inner, slots=slots, logprobs=logprobs, on_piece=on_piece)

    return make
