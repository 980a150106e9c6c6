"""The first numbers of the CUDA kernels on a GPU: checked, then timed, the most telling cells first.

    python bench/gpu_first.py [--seconds 100] [--out FILE] [--blocks]

A call is timed inside one graph of many calls on many buffers, so that neither Python, nor one launch, nor a warm L2 is
in the figure; `alone_us` is one call replayed by itself behind a sweep of the L2, its launches included. `roofline_us`
is one read of the logits at the bandwidth of an H100. A line of JSON for each cell goes to FILE as it is known.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

import fastsample
from fastsample.sampling.backends import cuda
from fastsample.sampling.contract import Case

V = 151_936
SETTINGS: dict[str, dict[str, float]] = {
    "none": dict(temperature=0.8),
    "top_p .9": dict(temperature=0.8, top_p=0.9),
    "k50 p.9": dict(temperature=0.8, top_k=50, top_p=0.9),
    "top_p .95 T1": dict(temperature=1.0, top_p=0.95),
    "greedy": dict(temperature=0.0),
    "k20 p.95 T.6": dict(temperature=0.6, top_k=20, top_p=0.95),
    "min_p .05": dict(temperature=1.0, min_p=0.05),
}
OFF = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
SPLITS, TEAMS = (1, 2, 3, 4, 6, 8, 12, 19), (1, 2, 4, 8)  # blocks that read a row, blocks that finish it


def cells(is_sweep: bool) -> Iterator[tuple[str, str, int, str]]:
    """(kind of rows, dtype, batch, setting)."""
    if is_sweep:
        yield from (("flat", "bfloat16", b, "top_p .9") for b in (1, 16, 33, 66, 132))
        yield from (("model-like", "bfloat16", b, "none") for b in (8, 32, 64, 128, 256, 512))
        return
    for setting in ("none", "top_p .9", "k50 p.9"):
        for b in (1, 64, 256, 8, 128, 32, 512):
            yield from (("model-like", dtype, b, setting) for dtype in ("bfloat16", "float32"))
    for kind in ("flat", "zipf"):
        for setting in ("top_p .9", "top_p .95 T1"):
            yield from ((kind, dtype, b, setting) for b in (1, 64) for dtype in ("bfloat16", "float32"))
    yield from (("model-like", "bfloat16", b, s) for s in ("greedy", "k20 p.95 T.6", "min_p .05") for b in (1, 64, 256))


def rows(kind: str, n: int, dtype: torch.dtype) -> Tensor:
    """[n, V] on the GPU: Zipf's law; noise; or noise with 400 logits that stand out, as a model's do."""
    g = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(n, V, device="cuda", generator=g)
    if kind == "zipf":
        ranked = -1.2 * torch.log(torch.arange(1, V + 1, device="cuda", dtype=torch.float32))
        x = 0.5 * x + torch.stack([ranked[torch.randperm(V, device="cuda", generator=g)] for _ in range(n)])
    elif kind == "model-like":
        at = torch.randint(V, (n, 400), device="cuda", generator=g)
        x = 2.2 * x
        x.scatter_add_(1, at, 6 + torch.empty(n, 400, device="cuda").exponential_(1 / 3.0, generator=g))
    return x.to(dtype)


class Direct:
    """The backend without Python's checks, with tokens that are made once; `blocks` in the place of its own choice."""

    def __init__(self, x: Tensor, parameters: dict[str, float], blocks: tuple[int, int]) -> None:
        self.case = Case.of(x, **(OFF | parameters), seed=1, stream=None, position=0, indices=None)  # type: ignore[arg-type]
        self.tokens = torch.empty(len(x), dtype=torch.int64, device="cuda")
        self.blocks = blocks

    def __call__(self) -> None:
        cuda.sample(self.case, self.tokens, None, *self.blocks)


def graph_of(calls: list[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    """The calls' launches as one graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def micros(calls: list[Callable[[], object]], sweep: Tensor | None = None, budget: float = 0.08) -> float:
    """Median microseconds of a call; behind a sweep of the L2 where a tensor for it is given."""
    graph, times = graph_of(calls), []
    start, end, began = torch.cuda.Event(True), torch.cuda.Event(True), time.time()
    while len(times) < 5 or (time.time() - began < budget and len(times) < 200):
        if sweep is not None:
            sweep.zero_()
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / len(calls))
    return round(sorted(times)[len(times) // 2], 2)


def lines(kind: str, dtype: str, b: int, setting: str, is_sweep: bool, sweep: Tensor) -> Iterator[dict]:
    """A cell's figures: one line, or one for each number of blocks that read a row, or finish it. The first two tokens
    are checked."""
    t: torch.dtype = getattr(torch, dtype)
    n = max(2, min(64, -(-120_000_000 // (b * V * t.itemsize))))
    many = rows(kind, min(n * b, 640), t)
    buffers = [many[torch.arange(i * b, (i + 1) * b, device="cuda") % len(many)] for i in range(n)]
    want = fastsample.sample(buffers[0][:2].cpu(), **SETTINGS[setting], seed=1, stream=torch.arange(min(b, 2)))
    choices = [(splits, 0) for splits in SPLITS] if setting == "none" else [(0, team) for team in TEAMS]
    for blocks in choices if is_sweep else [(0, 0)]:
        calls: list[Callable[[], object]] = [Direct(x, SETTINGS[setting], blocks) for x in buffers]
        calls[0]()
        first = calls[0]
        assert isinstance(first, Direct)
        line = dict(rows=kind, dtype=dtype, B=b, setting=setting, splits=blocks[0], team=blocks[1])
        line |= dict(is_right=torch.equal(first.tokens[:2].cpu(), want), us=micros(calls))
        line |= dict(alone_us=micros(calls[:1], sweep), roofline_us=round(b * V * t.itemsize / 3.35e6, 2))
        if not is_sweep:
            line["amax_us"] = micros([lambda x=x: torch.amax(x, 1) for x in buffers])  # type: ignore[misc]
        yield line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=100)
    parser.add_argument("--out", type=Path, help="where the lines of JSON go")
    parser.add_argument(
        "--blocks", action="store_true", help="sweep the blocks that read a row, and those that finish it"
    )
    o = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("nothing was measured: there is no GPU here")
    began, l2 = time.time(), torch.cuda.get_device_properties(0).L2_cache_size
    sweep = torch.empty(2 * l2, dtype=torch.int8, device="cuda")
    print(torch.cuda.get_device_name(0), torch.__version__, "CUDA extension for", cuda._cuda.architectures)
    for cell in cells(o.blocks):
        if time.time() - began > o.seconds:
            print("out of time")
            return
        for line in lines(*cell, o.blocks, sweep):
            print(line, flush=True)
            if o.out:
                with o.out.open("a") as file:
                    file.write(json.dumps(line | {"card": torch.cuda.get_device_name(0)}) + "\n")


if __name__ == "__main__":
    main()
