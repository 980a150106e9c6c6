"""The attention of many rows over one long prefix: torch's fused kernel against two products of oneDNN.

    python bench/attention.py [--heads 9 --key-heads 3 --width 64] [--quick]

Milliseconds of processor time on one thread, float32, medians, for `attention.LONG`; the results are compared first.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from functools import partial
from itertools import cycle
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastsample.shared_prefix import attention
from fastsample.torch_ops import flash

LAYERS = 8  # K/V of as many layers in turn, so that no cache holds them from one call to the next


def milliseconds(calls) -> float:
    seconds = []
    for call, _ in zip(cycle(calls), range(4 * LAYERS)):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return 1e3 * statistics.median(seconds[LAYERS:])


def main() -> None:
    parser = argparse.ArgumentParser(description="One long prefix under many rows: fused kernel and oneDNN.")
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--key-heads", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="one length and two batches, to see that the bench runs")
    options = parser.parse_args()
    h, G, D = options.key_heads, options.heads // options.key_heads, options.width
    torch.set_num_threads(1)
    print(f"{'tokens':>6} {'rows':>4} {'fused ms':>9} {'oneDNN ms':>9} {'ratio':>6}")
    for P in (256,) if options.quick else (256, 512, 1024, 2048, 8192):
        for rows in (1, 8) if options.quick else (1, 8, 32, 64):
            q = torch.randn(1, h, G * rows, D)
            kv = [(torch.randn(1, h, P, D), torch.randn(1, h, P, D)) for _ in range(LAYERS)]
            fused = [partial(flash.attend, q, k, v, None, D**-0.5, is_shared=True) for k, v in kv]
            products = [partial(attention._products, q, k, v, D**-0.5, None) for k, v in kv]
            for a, b in zip(fused[0](), products[0]()):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
            one, two = milliseconds(fused), milliseconds(products)
            print(f"{P:6} {rows:4} {one:9.3f} {two:9.3f} {one / two:6.2f}", flush=True)


if __name__ == "__main__":
    main()
