"""One stored prompt against the caches of transformers: seconds, bytes and tokens on one machine.

    python bench/prefix.py [--quick] [--plot FILE.png] [--dtype bfloat16] [--prepack] [--grid 512x64] [--only WHAT]

WHAT: steps (the grid below), sampling (its share of a step), retire (rows that leave early), end-to-end. All seconds
are CPU seconds of one thread: what an idle core takes, whoever else uses the machine.

Peers, each in a process of its own (so that peak memory is its own), on the same model, prompt and rows:

    shared      fastsample: the prompt stored once, a tail per row
    dynamic     what `generate(num_return_sequences=N)` runs on: DynamicCache, grown by concatenation
    malloc      the same with glibc's allocator told to keep and reuse memory: a fairer `dynamic`
    static      StaticCache of the whole length

The last three are filled by one prefill and `batch_repeat_interleave`, whose seconds are `fork`; `generate` itself
prefills N rows, which `--only end-to-end` pays.

A step is the forward pass of N rows with `generate`'s own per-step copy of the logits to float32, no sampling. Before
anything is timed, every peer's logits are held against the shared ones. Peak memory is that of prefill, fork and eight
steps; `end-to-end` gives that of whole samples. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from caches import Peak, Shared, Transformers

PEERS = ("shared", "dynamic", "malloc", "static")
MALLOC = {"MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TOP_PAD_": str(2**26)}
WARMUP, STEPS = 3, 5


def spread(seconds: list[float]) -> dict[str, float]:
    p20, p50, p80 = (statistics.quantiles(seconds, n=10, method="inclusive")[i] for i in (1, 4, 7))
    return {"p20": p20, "p50": p50, "p80": p80}


def measure(peer: str, P: int, N: int, dtype: str, prepack: bool) -> dict:
    """One peer in this process: seconds of prefill, fork and steps, peak bytes over the loaded model, sample logits."""
    from fastsample import models

    torch.set_num_threads(1)
    model, _ = models.load(dtype=getattr(torch, dtype), progress=lambda line: None)
    chosen = torch.Generator().manual_seed(0)
    prompt = torch.randint(100, 40000, (P,), generator=chosen).tolist()
    tokens = torch.randint(100, 40000, (WARMUP + STEPS, N), generator=chosen)
    run = Shared(model, prepack) if peer == "shared" else Transformers(model, peer, P + WARMUP + STEPS)
    model(input_ids=torch.tensor([prompt[:8]]))  # the first call reads the weights in
    with Peak() as peak:
        marks = [time.process_time()]
        run.prefill(prompt)
        marks.append(time.process_time())
        run.fork(N)
        marks.append(time.process_time())
        steps = []
        for i in range(WARMUP + STEPS):
            start = time.process_time()
            logits = run.step(tokens[i])
            if i >= WARMUP:
                steps.append(time.process_time() - start)
            else:
                first = logits[:4, :200].float()
    return {
        "prefill": marks[1] - marks[0], "fork": marks[2] - marks[1], "step": spread(steps), "peak": peak.bytes,
        "logits": first.tolist(),
    }  # fmt: skip


def measure_sampling(N: int, dtype: str) -> dict:
    """Seconds of a draw from N rows of the model's own logits: fastsample, and generate's copy, warpers and draw."""
    from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

    import fastsample
    from fastsample import models

    torch.set_num_threads(1)
    model, _ = models.load(dtype=getattr(torch, dtype), progress=lambda line: None)
    run = Shared(model, True)
    run.prefill(list(range(100, 612)))
    run.fork(N)
    tokens = torch.randint(100, 40000, (STEPS + 2, N))
    steps, ours, theirs = [], [], []
    warpers = (TemperatureLogitsWarper(0.8), TopPLogitsWarper(0.9))
    stream = torch.arange(N)
    for i in range(STEPS + 2):
        marks = [time.process_time()]
        logits = run.step(tokens[i])
        marks.append(time.process_time())
        fastsample.sample(logits, temperature=0.8, top_p=0.9, seed=1, stream=stream, position=i, return_stats=True)
        marks.append(time.process_time())
        scores = logits.to(copy=True, dtype=torch.float32)
        for warper in warpers:
            scores = warper(None, scores)
        torch.multinomial(scores.softmax(-1), 1)
        marks.append(time.process_time())
        for times, j in ((steps, 0), (ours, 1), (theirs, 2)):
            times.append(marks[j + 1] - marks[j])
    step, mine, hf = (statistics.median(t[2:]) for t in (steps, ours, theirs))
    return {"step": step, "fastsample": mine, "transformers": hf, "share": mine / (step + mine),
            "share_transformers": hf / (step + hf)}  # fmt: skip


def measure_retire(P: int, N: int, dtype: str, prepack: bool) -> dict:
    """Seconds for N samples of long-tailed lengths: rows leave when they end, against all rows to the longest's end."""
    from fastsample import models
    from fastsample.engines.base import Request
    from fastsample.engines.local.engine import LocalEngine

    torch.set_num_threads(1)
    model, _ = models.load(dtype=getattr(torch, dtype), progress=lambda line: None)
    chosen = torch.Generator().manual_seed(0)
    lengths = torch.empty(N).log_normal_(3.2, 0.8, generator=chosen).clamp(4, 200).int().tolist()
    prompt = tuple(torch.randint(100, 40000, (P,), generator=chosen).tolist())
    seconds = []
    for padded in (False, True):
        engine = LocalEngine(model, None, prepack=prepack)
        engine.submit(
            Request(prompt, stream=i, max_new_tokens=max(lengths) if padded else n, eos=())
            for i, n in enumerate(lengths)
        )
        engine.step()  # the prefill and the first tokens are the same for both
        start = time.process_time()
        engine.run()
        seconds.append(time.process_time() - start)
    return {"lengths_mean": sum(lengths) / N, "lengths_max": max(lengths), "retire": seconds[0], "pad": seconds[1]}


TEMPERATURES = (0.4, 0.7, 1.0, 1.3)


def measure_end_to_end(peer: str, P: int, N: int, T: int, dtype: str, prepack: bool) -> dict:
    """Seconds and tokens of N samples of T tokens at four temperatures, top_p 0.9, prefill included."""
    from fastsample import models
    from fastsample.engines.base import Request
    from fastsample.engines.local.engine import LocalEngine

    torch.set_num_threads(1)
    model, _ = models.load(dtype=getattr(torch, dtype), progress=lambda line: None)
    chosen = torch.Generator().manual_seed(0)
    prompt = torch.randint(100, 40000, (P,), generator=chosen).tolist()
    model(input_ids=torch.tensor([prompt[:8]]))
    with Peak() as peak:
        start = time.process_time()
        if peer == "shared":
            engine = LocalEngine(model, None, slots=N, prepack=prepack)
            assert engine.runner.is_shared
            engine.submit(
                Request(tuple(prompt), temperature=TEMPERATURES[i % 4], top_p=0.9, stream=i, max_new_tokens=T, eos=())
                for i in range(N)
            )
            written = sum(len(s.tokens) for s in engine.run())
        else:
            written = 0
            for temperature in TEMPERATURES:
                ids = torch.tensor([prompt])
                out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=temperature,
                                     top_p=0.9, top_k=0, num_return_sequences=N // 4, max_new_tokens=T,
                                     min_new_tokens=T, pad_token_id=0)  # fmt: skip
                written += (out.shape[1] - P) * out.shape[0]
        seconds = time.process_time() - start
    return {"seconds": seconds, "tokens": written, "tokens_per_second": written / seconds, "peak": peak.bytes}


MEASURES = {
    "steps": measure,
    "sampling": measure_sampling,
    "retire": measure_retire,
    "end-to-end": measure_end_to_end,
}


def child(what: str, *arguments, malloc: bool = False) -> dict:
    """Run one measurement in a process of its own."""
    environment = {**os.environ, **(MALLOC if malloc else {}), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, __file__, "--child", json.dumps([what, *arguments])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{what} {arguments} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_grid(grid: list[tuple[int, int]], dtype: str, prepack: bool) -> list[dict]:
    print(f"{'P':>5} {'N':>3}  {'peer':8} {'prefill s':>9} {'fork s':>7} {'step ms: p20':>12} {'p50':>7} {'p80':>7}"
          f" {'peak MB':>8}  {'step, x':>7} {'peak, x':>7}")  # fmt: skip
    results = []
    for P, N in grid:
        base = None
        for peer in PEERS:
            r = child("steps", peer, P, N, dtype, prepack, malloc=peer == "malloc")
            r.update(P=P, N=N, peer=peer)
            logits = torch.tensor(r.pop("logits"))
            base = base or {**r, "logits": logits}
            off = float((logits - base["logits"]).abs().max())
            limit = 2e-3 if dtype == "float32" else 2.0
            if not off <= limit:
                raise SystemExit(f"{peer} at P = {P}, N = {N} gives other logits, by {off:.2g}: nothing was timed")
            r["step_ratio"], r["peak_ratio"] = r["step"]["p50"] / base["step"]["p50"], r["peak"] / base["peak"]
            results.append(r)
            ms = {k: 1e3 * v for k, v in r["step"].items()}
            print(f"{P:5} {N:3}  {peer:8} {r['prefill']:9.2f} {r['fork']:7.3f} {ms['p20']:12.1f} {ms['p50']:7.1f}"
                  f" {ms['p80']:7.1f} {r['peak'] / 1e6:8.0f}  {r['step_ratio']:7.2f} {r['peak_ratio']:7.1f}",
                  flush=True)  # fmt: skip
    return results


def plot(results: list[dict], path: str) -> None:
    """Step time and peak memory over N, a panel for each P."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    prompts = sorted({r["P"] for r in results})
    figure, axes = pyplot.subplots(2, len(prompts), figsize=(4 * len(prompts), 6), squeeze=False, sharex=True)
    for column, P in enumerate(prompts):
        for peer in PEERS:
            line = sorted((r for r in results if r["P"] == P and r["peer"] == peer), key=lambda r: r["N"])
            n = [r["N"] for r in line]
            axes[0][column].plot(n, [1e3 * r["step"]["p50"] for r in line], marker="o", label=peer)
            axes[1][column].plot(n, [r["peak"] / 1e6 for r in line], marker="o", label=peer)
        axes[0][column].set_title(f"prompt of {P} tokens")
        axes[1][column].set_xlabel("samples")
        for row in (0, 1):
            axes[row][column].set_xscale("log", base=2)
            axes[row][column].set_yscale("log")
            axes[row][column].grid(alpha=0.3)
    axes[0][0].set_ylabel("a step, ms")
    axes[1][0].set_ylabel("peak over the weights, MB")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="One stored prompt against the caches of transformers.")
    parser.add_argument("--quick", action="store_true", help="a small grid and few samples: two minutes")
    parser.add_argument("--plot", metavar="FILE.png")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--prepack", action="store_true", help="give fastsample's linear layers packed weights")
    parser.add_argument("--grid", nargs="+", metavar="PxN", help="prompt tokens x samples")
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, *arguments = json.loads(options.child)
        print(json.dumps(MEASURES[what](*arguments)))
        return
    import transformers

    machine = {"machine": platform.machine(), "processor": processor(), "cores": os.cpu_count(), "threads": 1,
               "torch": torch.__version__, "transformers": transformers.__version__,
               "dtype": options.dtype, "prepack": options.prepack}  # fmt: skip
    print(", ".join(f"{k} {v}" for k, v in machine.items()))
    out: dict = {"bench": "prefix", **machine}
    if "steps" in options.only:
        grid = [(P, N) for P in (128, 512, 2048) for N in (1, 8, 32, 64)]
        grid = [(128, 1), (512, 8), (512, 32)] if options.quick else grid
        if options.grid:
            grid = [tuple(map(int, cell.split("x"))) for cell in options.grid]
        out["steps"] = run_grid(grid, options.dtype, options.prepack)
        if options.plot:
            plot(out["steps"], options.plot)
    if "sampling" in options.only:
        out["sampling"] = r = child("sampling", 64, options.dtype)
        print(f"sampling of 64 rows: fastsample {1e3 * r['fastsample']:.2f} ms, {r['share']:.1%} of a step; "
              f"transformers {1e3 * r['transformers']:.0f} ms, {r['share_transformers']:.0%}")  # fmt: skip
    if "retire" in options.only:
        out["retire"] = r = child("retire", 512, 16 if options.quick else 64, options.dtype, options.prepack)
        print(f"long-tailed lengths (mean {r['lengths_mean']:.0f}, longest {r['lengths_max']}): rows that leave "
              f"{r['retire']:.1f} s, all to the end {r['pad']:.1f} s, {r['pad'] / r['retire']:.2f} times")  # fmt: skip
    if "end-to-end" in options.only:
        N, T = (16, 16) if options.quick else (64, 128)
        pair = {p: child("end-to-end", p, 512, N, T, options.dtype, options.prepack) for p in ("shared", "generate")}
        out["end_to_end"] = {**pair, "ratio": pair["generate"]["seconds"] / pair["shared"]["seconds"]}
        print(f"{N} samples x {T} tokens, P = 512, four temperatures, top_p 0.9: fastsample "
              f"{pair['shared']['seconds']:.1f} s ({pair['shared']['tokens_per_second']:.0f} tokens/s), generate once "
              f"a temperature {pair['generate']['seconds']:.1f} s ({pair['generate']['tokens_per_second']:.0f}), "
              f"{out['end_to_end']['ratio']:.1f} times; peak over the weights {pair['shared']['peak'] / 1e6:.0f} and "
              f"{pair['generate']['peak'] / 1e6:.0f} MB")  # fmt: skip
    print(json.dumps(out))


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
