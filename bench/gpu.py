"""bench/sampling.py on a GPU: its cells, the contenders that need one, and how a call is timed there.

A call is timed by events of the device, after a sweep that leaves nothing of the logits in its L2 cache. Eagerly, what
Python and the launches cost is in the figure; replayed from a graph, it is not.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator

import peers
import torch
from torch import Tensor

import fastsample
from fastsample.sampling.contract import Case
from fastsample.sampling.dispatch import load_backend

VOCAB = 151936
BATCHES = (1, 8, 64, 256)
FULL_BATCHES = (1, 8, 32, 64, 128, 256)
FULL_VOCABULARIES = (32000, 128256, 151936, 262144)


def cells(full: bool, settings: tuple[str, ...]) -> Iterator[tuple]:
    """(kind of rows, vocabulary, batch, setting, dtype): the published comparisons' sizes, or the whole grid."""
    if full:
        dtypes = (torch.float32, torch.bfloat16, torch.float16)
        yield from itertools.product(("zipf", "flat"), FULL_VOCABULARIES, FULL_BATCHES, settings, dtypes)
        return
    yield from itertools.product(("zipf",), (VOCAB,), BATCHES, settings, (torch.float32, torch.bfloat16))
    yield from itertools.product(("flat",), (VOCAB,), (1, 64), settings[:1], (torch.float32, torch.bfloat16))


def contenders(x: Tensor, temperature: float, top_k: int, top_p: float) -> dict[str, peers.Sampler]:
    """Every sampler that is installed here, by name; those that start from probabilities make them inside the call."""
    parameters = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    found: dict[str, peers.Sampler] = {
        "one read (torch.amax)": lambda: torch.amax(x, 1),
        "torch.softmax": lambda: torch.softmax(x, 1),
        "fastsample": lambda: fastsample.sample(x, **parameters, seed=0),
    }
    for backend in ("cuda", "triton"):
        if why_not(backend, x) is None:
            found[f"fastsample {backend}"] = lambda backend=backend: fastsample.sample(
                x, **parameters, seed=0, backend=backend
            )
    found["transformers"] = peers.transformers_warpers(x, **parameters)
    found["torch sort"] = peers.torch_sort(x, **parameters)
    if top_k:
        found["torch topk, then top-p"] = peers.top_k_first(x, **parameters)
    if importlib.util.find_spec("flashinfer"):
        found["FlashInfer"] = flashinfer(x, **parameters)
    if importlib.util.find_spec("vllm"):
        found["vLLM"] = vllm(x, **parameters)
    return found


def why_not(backend: str, x: Tensor) -> str | None:
    """The sentence with which a backend declines these logits; None if it takes them."""
    return load_backend(backend).why_not(Case.of(x, 1.0, 0, 1.0, 0.0, 0, None, 0, None))


def flashinfer(x: Tensor, temperature: float, top_k: int, top_p: float) -> peers.Sampler:
    """FlashInfer as it is meant to be called: top-k masks logits, top-p alone starts from probabilities."""
    from flashinfer import sampling

    if top_k:
        return lambda: sampling.top_k_top_p_sampling_from_logits(x.float() / temperature, top_k, top_p)
    return lambda: sampling.top_p_sampling_from_probs(sampling.softmax(x, temperature=temperature), top_p)


def vllm(x: Tensor, temperature: float, top_k: int, top_p: float) -> peers.Sampler:
    """vLLM's sampler behind its own temperature: float32 logits, divided, then whichever kernel it chooses here."""
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

    sampler = TopKTopPSampler()
    k = torch.full((len(x),), top_k, dtype=torch.int32, device=x.device) if top_k else None
    p = torch.full((len(x),), top_p, dtype=torch.float32, device=x.device) if top_p < 1 else None
    return lambda: sampler.forward(x.float() / temperature, {}, k, p)  # a copy: the sampler may write into it


class ColdClock:
    """Seconds of a call on `device`, with the L2 cache swept before it."""

    def __init__(self, device: torch.device) -> None:
        size = 2 * torch.cuda.get_device_properties(device).L2_cache_size
        self.sweep = torch.empty(size, dtype=torch.int8, device=device)
        self.start, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def __call__(self, call: Callable[[], object]) -> float:
        self.sweep.zero_()
        self.start.record()
        call()
        self.end.record()
        self.end.synchronize()
        return self.start.elapsed_time(self.end) / 1e3


def captured(call: peers.Sampler) -> peers.Sampler | None:
    """The call's launches as one graph to be replayed; None where it cannot be captured: it waits for the GPU."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # compiled, loaded and with its workspaces made, before the capture
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError as refusal:
        print(f"  (not capturable: {str(refusal).splitlines()[0]})")
        return None
    return graph.replay
