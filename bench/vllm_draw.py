"""vLLM with our draw, vLLM with its own sampler, and our own engine beside them: tokens a second, end to end.

    python bench/vllm_draw.py                        where vLLM is installed: `make engines` says how
    python bench/vllm_draw.py --vocabulary 151936    the same model with more tokens, made up from its own ones

64 samples x 128 tokens of one prompt of 512 tokens, temperature 0.8, top_p 0.9, all written to the end. One vLLM engine
serves both of its contenders, with `FastDraw` loaded: whose request has no field of ours is drawn by vLLM. Nobody finds
a prompt in a cache, as each round and each contender has its own. The tokens of our draw in vLLM are first held against
our own engine's. Seconds are the clock's, and those of the processor in all processes that belong to the contender.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.append(str(Path(__file__).parent.parent / "tests" / "helpers"))

import torch
import vllm_real
from measure import machine

from fastsample import models
from fastsample.engines.base import Request
from fastsample.engines.local.engine import LocalEngine

TICK = os.sysconf("SC_CLK_TCK")


def processor_seconds() -> float:
    """Of this process and of all that it started and that are still there."""
    known = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        known[int(path.parent.name)] = (int(fields[1]), (int(fields[11]) + int(fields[12])) / TICK)
    family, found = {os.getpid()}, 0.0
    while family:
        found += sum(known[pid][1] for pid in family if pid in known)
        family = {pid for pid, (parent, _) in known.items() if parent in family}
    return found


def with_vocabulary(folder: Path, size: int) -> Path:
    """The embedded model in `folder`, its tokens followed by weaker copies of themselves until there are so many."""
    model, tokenizer = models.load(dtype="float32")
    own = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        for start in range(own, size, own):
            weight[start : start + own] = 0.5 * weight[: min(own, size - start)]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def requests(round_: int, contender: int, samples: int, prompt: int, tokens: int) -> list[Request]:
    """Of a prompt that no other round and contender has."""
    dice = torch.Generator().manual_seed(100 * round_ + contender)
    ids = tuple(torch.randint(100, 40000, (prompt,), generator=dice).tolist())
    base = Request(ids, temperature=0.8, top_p=0.9, seed=round_, max_new_tokens=tokens, eos=())
    return [replace(base, stream=n) for n in range(samples)]


def main() -> None:
    """Check, measure in turn, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of each contender")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--vocabulary", type=int)
    options = parser.parse_args()
    if (sentence := vllm_real.why_not()) is not None:
        sys.exit(sentence)
    os.environ.update(vllm_real.SMALL | {"OMP_NUM_THREADS": str(options.threads)})
    torch.set_num_threads(options.threads)
    with TemporaryDirectory() as folder:
        name = None if options.vocabulary is None else str(with_vocabulary(Path(folder), options.vocabulary))
        told = measure(name, options)
    print(json.dumps(told))


def measure(name: str | None, options: argparse.Namespace) -> dict[str, object]:
    """All contenders over a model, in turn; returns medians over the rounds."""
    from fastsample.engines.vllm.loading import load

    length = options.prompt + options.tokens
    settings = vllm_real.OPTIONS | {"max_model_len": max(1024, length + 1)}
    model, tokenizer = models.load(name, dtype=options.dtype)
    own = LocalEngine(model, tokenizer, slots=options.samples)
    with load(name, dtype=options.dtype, slots=options.samples, options=settings) as engine:

        def run(writer: object, is_fast: bool, asked: list[Request]) -> list[list[int]]:
            engine.is_fast = is_fast
            samples = writer.submit(asked)
            writer.run()
            return [s.tokens for s in samples]

        size = (options.samples, options.prompt, options.tokens)
        contenders: dict[str, Callable[[list[Request]], list[list[int]]]] = {
            "vLLM, our draw": lambda asked: run(engine, True, asked),
            "vLLM, its own": lambda asked: run(engine, False, asked),
            "our engine": lambda asked: run(own, True, asked),
        }
        check = requests(-1, 0, min(8, options.samples), options.prompt, min(16, options.tokens))
        first, *others = (call(check) for call in contenders.values())
        equal = sum(a == b for a, b in zip(first, others[-1]))
        if options.dtype == "float32":
            assert equal == len(check), f"{equal} of {len(check)} texts are our engine's"
        clock: dict[str, list[float]] = {c: [] for c in contenders}
        processor: dict[str, list[float]] = {c: [] for c in contenders}
        for round_ in range(options.rounds):
            for place, (contender, call) in enumerate(contenders.items()):
                asked = requests(round_, place, *size)
                spent, start = processor_seconds(), time.perf_counter()
                written = call(asked)
                clock[contender].append(time.perf_counter() - start)
                processor[contender].append(processor_seconds() - spent)
                assert all(len(tokens) == options.tokens for tokens in written)
                print(f"{contender}: {clock[contender][-1]:.1f} s, {processor[contender][-1]:.1f} s of processor",
                      file=sys.stderr, flush=True)  # fmt: skip
        vllm_version = engine.traits.name
    total = options.samples * options.tokens
    rows = {
        c: {
            "tokens_per_second": round(total / statistics.median(clock[c]), 1),
            "tokens_per_processor_second": round(total / statistics.median(processor[c]), 1),
        }
        for c in contenders
    }
    print("| who writes | tokens a second | tokens a second of processor |\n|---|---|---|")
    for c, row in rows.items():
        print(f"| {c} | {row['tokens_per_second']:,} | {row['tokens_per_processor_second']:,} |")
    return machine() | vars(options) | {"vllm": vllm_version, "equal_texts": [equal, len(check)], "rows": rows}


if __name__ == "__main__":
    main()
