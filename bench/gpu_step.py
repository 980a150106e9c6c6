"""One step of generation on a GPU, for a model of random weights: with a CUDA graph, without one, and attention alone.

    python bench/gpu_step.py [--layers 36 --hidden 2560 --heads 32 --key-heads 8 --width 128 --vocab 151936]
                             [--rows 1,16,64] [--prompt 2048] [--steps 40] [--out FILE]

The numbers are those of Qwen3-4B. `graph_ms` is the clock's time of a step of the engine, everything included: the
draw, the transfer and Python. `launches_ms` is the same without a graph. `attention_us` is the attention of one layer
in a graph, and `roofline_us` what reading its K/V once takes at the bandwidth that is given. Medians, bfloat16. A line
of JSON for each number of rows goes to FILE as it is known.
Without a GPU, the CPU runs both steps, to show that they run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastsample.engines.base import Request
from fastsample.engines.local.engine import LocalEngine
from fastsample.engines.local.graphed import GraphedRunner
from fastsample.engines.local.runners import SharedPrefixRunner
from fastsample.shared_prefix.decode import Directory, FixedPart
from fastsample.shared_prefix.prefix import PrefixLayer
from fastsample.torch_ops import decode


def model_of(args: argparse.Namespace, device: str):
    """A Qwen3 of random weights on the device."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=args.vocab, hidden_size=args.hidden, intermediate_size=args.hidden * 19 // 5,
        num_hidden_layers=args.layers, num_attention_heads=args.heads, num_key_value_heads=args.key_heads,
        head_dim=args.width, max_position_embeddings=2 * args.prompt + 4096, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        return Qwen3ForCausalLM(config).to(torch.bfloat16).eval()


def step_ms(model, kind: type, rows: int, prompt: int, steps: int) -> float:
    """The median time of a step of `rows` samples behind one prompt."""
    engine = LocalEngine(model, None, slots=rows, runner=kind(model))
    ids = tuple(range(3, 3 + prompt))
    engine.submit(
        Request(ids, temperature=0.8, top_k=50, top_p=0.9, seed=1, stream=i, max_new_tokens=steps + 8, eos=())
        for i in range(rows)
    )
    for _ in range(6):
        engine.step()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        engine.step()
        times.append(1e3 * (time.perf_counter() - start))
    engine.cancel(engine.running)
    return statistics.median(times)


def attention_us(args: argparse.Namespace, rows: int, device: str, repeats: int = 20) -> tuple[float, int]:
    """The median time of one layer's attention, a graph of many layers' divided, and the bytes of its K/V."""
    tail, group = 512, torch.bfloat16
    parts = []
    for _ in range(repeats):
        where = Directory(rows, 1, max(1, -(-rows // decode.TILE_ROWS)), torch.device(device))
        where.set([0] * rows)
        keys, values = (torch.randn(rows, args.key_heads, tail, args.width, device=device, dtype=group) for _ in "kv")
        stored = PrefixLayer(
            *(torch.randn(1, args.key_heads, args.prompt, args.width, device=device, dtype=group) for _ in "kv"), None
        )
        lengths = torch.full((rows,), tail - 1, device=device)
        table = where.table([stored]).to(device)
        parts.append(FixedPart(keys, values, lengths, where, table, decode.parts(args.prompt), [stored], None))
    query = torch.randn(rows, args.heads, 1, args.width, device=device, dtype=group)
    for part in parts:
        part.attend(query, 0.1, None, None)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for part in parts:
            part.attend(query, 0.1, None, None)
    start, end, times = torch.cuda.Event(True), torch.cuda.Event(True), []
    for _ in range(20):
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / repeats)
    read = 4 * args.key_heads * args.width * (args.prompt + rows * tail)
    return statistics.median(times), read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in dict(layers=36, hidden=2560, heads=32, key_heads=8, width=128, vocab=151_936).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--rows", default="1,16,64")
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--bandwidth", type=float, default=3.35e12, help="bytes a second, of an H100")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    is_gpu = torch.cuda.is_available()
    device = "cuda" if is_gpu else "cpu"
    print(
        f"# {torch.cuda.get_device_name() if is_gpu else 'no GPU: the CPU, without graphs'}, torch {torch.__version__}"
    )
    model = model_of(args, device)
    for rows in map(int, args.rows.split(",")):
        line = {"rows": rows, "prompt": args.prompt, "device": device}
        for name, kind in (("graph_ms", GraphedRunner), ("launches_ms", SharedPrefixRunner)):
            line[name] = round(step_ms(model, kind, rows, args.prompt, args.steps), 3)
        if is_gpu:
            took, read = attention_us(args, rows, device)
            line |= {"attention_us": round(took, 2), "roofline_us": round(1e6 * read / args.bandwidth, 2)}
        print(json.dumps(line), flush=True)
        if args.out:
            with args.out.open("a") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
