"""On a GPU: generation and the Hugging Face plug-ins write what they write on the CPU. Run by `make gpu`."""

import pytest
import torch
from tiny import tiny

import fastsample
from fastsample.engines.base import Request
from fastsample.engines.local.engine import LocalEngine
from fastsample.hf import FastSampler
from fastsample.hf.generate import generate as shared

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device")]

GPU = "cuda"
PROMPT = tuple(range(3, 63))
TEMPERATURES = [0.3, 0.7, 1.0, 1.6]
SETTINGS = {"max_new_tokens": 12, "pad_token_id": 0, "eos_token_id": 2}


def written(model, slots):
    """The tokens of twelve samples of two prompts, in the order of submission."""
    generator = LocalEngine(model, None, slots=slots)
    samples = generator.submit(
        Request(PROMPT[i % 2 :], temperature=TEMPERATURES[i % 4], top_p=0.9, seed=7, stream=i, max_new_tokens=12)
        for i in range(12)
    )
    generator.run()
    return [s.tokens for s in samples]


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "qwen2-2", "mamba"])
@pytest.mark.parametrize("slots", [12, 5])
def test_generator_writes_what_it_writes_on_the_cpu(architecture, slots):
    """Shared and fallback engines, with rows that leave and rows that take their place."""
    model = tiny(architecture)
    expected = written(model, slots)
    assert written(model.to(GPU), slots) == expected


def test_fast_sampler_draws_what_the_cpu_draws_from_the_same_logits():
    """Each token of `generate` on the GPU is that of the CPU backend for the logits of that step."""
    model = tiny("llama").to(GPU)
    ids = torch.tensor([PROMPT] * 4, device=GPU)
    sampler = FastSampler(temperature=TEMPERATURES, top_p=0.9, seed=7)
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), logits_processor=[sampler],
                         output_logits=True, return_dict_in_generate=True, **SETTINGS)  # fmt: skip
    assert len(out.logits) > 1
    is_written = torch.ones(4, dtype=torch.bool)
    for step, logits in enumerate(out.logits):
        at = len(PROMPT) + step
        tokens = fastsample.sample(
            logits.float().cpu(), temperature=torch.tensor(TEMPERATURES), top_p=0.9, seed=7, position=at
        )
        found = out.sequences[:, at].cpu()
        assert torch.equal(found[is_written], tokens[is_written])
        is_written &= found != 2


def test_custom_generate_returns_what_it_returns_on_the_cpu():
    """Through the shared prefix, on the model's own device."""
    model, ids = tiny("llama"), torch.tensor([PROMPT])
    options = {
        "custom_generate": shared,
        "temperatures": TEMPERATURES,
        "num_return_sequences": 4,
        "do_sample": True,
        **SETTINGS,
    }
    expected = model.generate(input_ids=ids, **options)
    out = model.to(GPU).generate(input_ids=ids.to(GPU), **options)
    assert out.device.type == GPU
    assert torch.equal(out.cpu(), expected)
