"""fastsample's sampler against its peers, on the same rows, in one process.

    python bench/sampling.py                    the table of the README, a few minutes
    python bench/sampling.py --only "top_k 50"  the cells of one filter
    python bench/sampling.py --full             every vocabulary, batch, dtype and thread count
    python bench/sampling.py --libllama FILE    with llama.cpp's chain (or install llama-cpp-python)
    python bench/sampling.py --plot FILE.png
    python bench/sampling.py --device cuda      on a GPU: also FlashInfer and vLLM where installed; eager and graph

Checks the tokens first, then times: microseconds a row, medians of contenders that take turns. The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import gpu
import peers
import rows as kinds
import torch
from measure import in_turn, machine, processor_seconds, quantiles, wall_seconds

import fastsample

SETTINGS = {
    "top_p 0.9": {"temperature": 0.8, "top_k": 0, "top_p": 0.9},
    "top_k 50 + top_p 0.9": {"temperature": 0.8, "top_k": 50, "top_p": 0.9},
}
VOCABULARIES = (32000, 49152, 128256, 151936, 262144)
ROWS = 16  # at least, however small the batch: B = 1 times 16 calls
README = [  # kind, vocabulary, batch, setting
    ("zipf", 151936, 64, "top_p 0.9"),
    ("zipf", 151936, 1, "top_p 0.9"),
    ("zipf", 151936, 64, "top_k 50 + top_p 0.9"),
    ("zipf", 151936, 1, "top_k 50 + top_p 0.9"),
    ("real", 49152, 64, "top_p 0.9"),
    ("real", 49152, 1, "top_p 0.9"),
    ("flat", 151936, 64, "top_p 0.9"),
    ("flat", 151936, 1, "top_p 0.9"),
]
QUICK = [("zipf", 2000, 4, setting) for setting in SETTINGS]


class Cell(NamedTuple):
    """What is timed together."""

    rows: str  # kind
    vocab: int
    batch: int
    setting: str
    dtype: torch.dtype
    threads: int
    mode: str = ""  # on a GPU: "eager" or "graph"


def main() -> None:
    options = parse()
    about = machine()
    if options.device.type == "cuda":
        about["device"] = torch.cuda.get_device_name(options.device)
    print("  ".join(f"{name}: {value}" for name, value in about.items()))
    results = []
    for cell in cells(options):
        if not cell.setting.startswith(options.only):
            continue
        logits = kinds.KINDS[cell.rows](max(cell.batch, ROWS), cell.vocab)
        if logits is None:
            continue
        torch.set_num_threads(cell.threads)
        check(logits.to(options.device), SETTINGS[cell.setting])
        measured = measure_on_gpu if options.device.type == "cuda" else measure
        micros = measured(cell, logits, options)
        results.append({**cell._asdict(), "dtype": str(cell.dtype).removeprefix("torch."), "us_per_row": micros})
        print_cell(results[-1])
    if options.device.type == "cpu":
        print_threads(results)
    if options.plot:
        plot(results, options.plot)
    print(json.dumps({"bench": "sampling", **about, "processor_time": options.processor_time, "results": results}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="every vocabulary, batch, dtype and thread count")
    parser.add_argument("--quick", action="store_true", help="two small cells, to see that the bench runs")
    parser.add_argument("--only", default="", metavar="FILTER", help="the cells whose filter begins with these words")
    parser.add_argument(
        "--device", type=torch.device, default=torch.device("cpu"), help="cpu (default), or a GPU's: cuda, cuda:1"
    )
    parser.add_argument("--instruction-set", help="avx512, avx2 or x86-64 instead of the best")
    parser.add_argument("--libllama", help="libllama.so to load llama.cpp's sampler from")
    parser.add_argument("--seconds", type=float, default=8.0, help="a cell's budget (default 8)")
    parser.add_argument("--processor-time", action="store_true", help="not the clock's, where others use the machine")
    parser.add_argument("--plot", type=Path, help="write a bar chart to this file")
    options = parser.parse_args()
    if options.device.type not in ("cpu", "cuda") or (options.device.type == "cuda" and not torch.cuda.is_available()):
        parser.error(f"--device must be cpu, or cuda on a machine with a GPU that torch can use, got {options.device}")
    options.llama = peers.find_llama(options.libllama)
    if options.instruction_set:
        from fastsample.sampling.backends import _cpu

        _cpu.use_instruction_set(options.instruction_set)
    return options


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    if options.device.type == "cuda":
        for cell in itertools.islice(gpu.cells(options.full, tuple(SETTINGS)), 2 if options.quick else None):
            for mode in ("eager", "graph"):
                yield Cell(*cell, threads=torch.get_num_threads(), mode=mode)
        return
    dtypes, threads = (torch.float32, torch.bfloat16), (1, 2)
    if options.full:
        grid = itertools.product(kinds.KINDS, VOCABULARIES, (1, 8, 64), SETTINGS, dtypes, threads)
        yield from itertools.starmap(Cell, grid)
        return
    for cell in QUICK if options.quick else README:
        yield Cell(*cell, torch.float32, 1)
    if not options.quick:
        for batch, count, dtype in itertools.product((64, 1), threads, dtypes):
            if (dtype, count) != (torch.float32, 1):
                yield Cell("zipf", 151936, batch, "top_p 0.9", dtype, count)


def check(logits: torch.Tensor, setting: dict[str, float]) -> None:
    """No number without a right result: the reference's tokens, on a few rows."""
    few = logits[:2]
    expected = fastsample.sample(few.cpu(), **setting, seed=1, backend="reference")
    for backend in (None, *(b for b in ("cuda", "triton") if gpu.why_not(b, few) is None)):
        assert torch.equal(fastsample.sample(few, **setting, seed=1, backend=backend).cpu(), expected), backend


def measure(cell: Cell, logits: torch.Tensor, options: argparse.Namespace) -> dict[str, list[float]]:
    """Microseconds a row of every contender: {name: [p20, p50, p80]}."""
    parameters = SETTINGS[cell.setting]
    # Different rows one after the other: one row again and again would be learnt by heart, by caches and by branches.
    batches = logits.to(cell.dtype).split(cell.batch)
    contenders = {
        "one read (torch.amax)": peers.one_by_one([lambda x=x: torch.amax(x, 1) for x in batches]),
        "torch.softmax": peers.one_by_one([lambda x=x: torch.softmax(x, 1) for x in batches]),
        "fastsample": peers.one_by_one([lambda x=x: fastsample.sample(x, **parameters, seed=0) for x in batches]),
        "transformers": peers.one_by_one([peers.transformers_warpers(x, **parameters) for x in batches]),
        "torch sort": peers.one_by_one([peers.torch_sort(x, **parameters) for x in batches]),
    }
    if parameters["top_k"]:
        calls = [peers.top_k_first(x, **parameters) for x in batches]
        contenders["torch topk, then top-p"] = peers.one_by_one(calls)
    is_plain = cell.dtype == torch.float32 and cell.threads == 1
    if is_plain:
        floors = [peers.floor(x) for x in batches]
        if None not in floors:
            contenders["floor (max + sum of exp)"] = peers.one_by_one(floors)
        if options.llama:
            chains = [peers.llama_cpp(x, **parameters, library=options.llama) for x in batches]
            contenders["llama.cpp"] = peers.one_by_one(chains)
    clock = processor_seconds if options.processor_time else wall_seconds
    return quantiles_of(in_turn(contenders, rounds=30, seconds=options.seconds, clock=clock), len(logits))


def measure_on_gpu(cell: Cell, logits: torch.Tensor, options: argparse.Namespace) -> dict[str, list[float]]:
    """The same on a GPU: one batch a call, from memory, as called or replayed from a graph."""
    x = logits[: cell.batch].to(options.device, cell.dtype)
    with torch.cuda.device(options.device):
        contenders = gpu.contenders(x, **SETTINGS[cell.setting])
        if cell.mode == "graph":
            graphs = {name: gpu.captured(call) for name, call in contenders.items()}
            contenders = {name: replay for name, replay in graphs.items() if replay is not None}
        seconds = in_turn(contenders, rounds=100, seconds=options.seconds, clock=gpu.ColdClock(options.device))
    return quantiles_of(seconds, cell.batch)


def quantiles_of(seconds: dict[str, list[float]], rows: int) -> dict[str, list[float]]:
    """[p20, p50, p80] in microseconds a row."""
    return {name: [float(f"{q / rows * 1e6:.3g}") for q in quantiles(times)] for name, times in seconds.items()}


def print_cell(cell: dict) -> None:
    how = cell["mode"] or f"{cell['threads']} thread{'s' if cell['threads'] > 1 else ''}"
    print(
        f"\n{cell['rows']} rows, V = {cell['vocab']:,}, B = {cell['batch']}, {cell['setting']}, {cell['dtype']}, {how}"
    )
    print(f"  {'us a row':30}{'p20':>10}{'p50':>10}{'p80':>10}{'/ fastsample':>14}")
    ours = cell["us_per_row"]["fastsample"][1]
    for name, (low, median, high) in sorted(cell["us_per_row"].items(), key=lambda item: item[1][1]):
        print(f"  {name:30}{digits(low):>10}{digits(median):>10}{digits(high):>10}{median / ours:14.2f}")


def digits(micros: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{micros:.3g}" if micros < 100 else f"{micros:.0f}"


def print_threads(results: list[dict]) -> None:
    """What a second thread and what half-width logits gain."""
    print("\nfastsample, us a row (p50), against one thread in float32:")
    ours = {tuple(c[k] for k in KEYS): c["us_per_row"]["fastsample"][1] for c in results}
    for key, median in ours.items():
        base = ours.get((*key[:4], "float32", 1))
        if base and key[4:] != ("float32", 1):
            print(
                f"  {key[0]}, V = {key[1]:,}, B = {key[2]}, {key[4]}, {key[5]} threads: {median} ({base / median:.2f}x)"
            )


KEYS = ("rows", "vocab", "batch", "setting", "dtype", "threads")


def plot(results: list[dict], path: Path) -> None:
    """Bars on a logarithmic scale, a group a cell."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [
        c for c in results if c["dtype"] == "float32" and (c["mode"] == "graph" or (c["threads"], c["mode"]) == (1, ""))
    ]
    names = sorted(
        {n for c in shown for n in c["us_per_row"]}, key=lambda n: shown[0]["us_per_row"].get(n, [0, 9e9])[1]
    )
    greys = iter(plt.get_cmap("Greys")([0.25 + 0.6 * i / len(names) for i in range(len(names))]))
    colours = {name: "#d62728" if name == "fastsample" else next(greys) for name in names}
    figure, axes = plt.subplots(figsize=(10, 1.6 * len(shown) + 1))
    height = 0.8 / len(names)
    for i, name in enumerate(names):
        bars = [(y + i * height, c["us_per_row"][name][1]) for y, c in enumerate(shown) if name in c["us_per_row"]]
        axes.barh(*zip(*bars), height=height, label=name, color=colours[name])
    axes.set_yticks(
        [y + 0.4 for y in range(len(shown))],
        [f"{c['rows']}, V = {c['vocab']:,}\nB = {c['batch']}, {c['setting']}" for c in shown],
    )
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("microseconds a row, median, " + ("replayed from a graph" if shown[0]["mode"] else "one thread"))
    axes.legend(fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
