"""What penalties and bitmasks cost inside the sampler's call, beside the same done before it with torch.

    python bench/edits.py            a minute
    python bench/edits.py --quick    to see that it runs

Checks that all ways draw the same tokens, then times: microseconds of processor time a row on one thread, medians of
contenders that take turns. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from functools import partial

import rows as kinds
import torch
from measure import in_turn, machine, processor_seconds, quantiles

import fastsample
from fastsample.sampling.edits import bits_of

SETTING = {"temperature": 0.8, "top_p": 0.9, "seed": 1}
SEEN = 500  # tokens of each row's prompt and output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one small size, to see that the bench runs")
    parser.add_argument("--seconds", type=float, default=8.0, help="a size's budget (default 8)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    about = machine()
    print("  ".join(f"{name}: {value}" for name, value in about.items()))
    results = []
    for vocab, batch in [(2000, 2)] if options.quick else [(49152, 16), (151936, 16)]:
        results += measure(kinds.zipf(batch, vocab), options.seconds)
    print(json.dumps({"bench": "edits", **about, "seen": SEEN, "results": results}))


def measure(logits: torch.Tensor, seconds: float) -> list[dict]:
    """Every kind of edit at one size, with the plain call beside it."""
    batch, vocab = logits.shape
    g = torch.Generator().manual_seed(0)
    seen = torch.randint(vocab, (batch, SEEN), generator=g)
    edits = fastsample.Edits(
        prompts=seen[:, : SEEN // 2], outputs=seen[:, SEEN // 2 :], repetition_penalty=1.1, frequency_penalty=0.1,
        presence_penalty=0.2,
    )  # fmt: skip
    some = torch.zeros(batch, vocab, dtype=torch.bool)
    some[:, torch.randint(vocab, (200,), generator=g)] = True
    most = torch.ones(batch, vocab, dtype=torch.bool)
    most[:, torch.randint(vocab, (200,), generator=g)] = False
    plain = partial(fastsample.sample, logits, **SETTING)
    contenders = {"plain": plain, f"penalties of {SEEN} tokens": partial(plain, edits=edits)}
    contenders["the same, edited by torch first"] = lambda: plain_of(penalised(logits, seen))
    for name, mask in (("200 tokens allowed", some), ("200 tokens forbidden", most)):
        contenders[name] = partial(plain, allowed=bits_of(mask))
        contenders[f"{name}, by torch first"] = lambda mask=mask: plain_of(logits.masked_fill(~mask, -torch.inf))
    pairs = list(contenders)[1:]
    for ours, torchs in zip(pairs[::2], pairs[1::2]):
        assert torch.equal(contenders[ours](), contenders[torchs]()), ours
    contenders["counting a step's tokens"] = partial(edits.append, seen[:, 0])  # they are there already: nothing grows
    found = in_turn(contenders, rounds=100, seconds=seconds, clock=processor_seconds)
    micros = {name: [float(f"{q / batch * 1e6:.3g}") for q in quantiles(times)] for name, times in found.items()}
    print(f"\nV = {vocab:,}, {batch} rows, top_p 0.9, float32: us a row")
    for name, (_, median, _) in micros.items():
        print(f"  {name:40}{median:8.1f}{median / micros['plain'][1]:8.2f}")
    return [{"vocab": vocab, "rows": batch, "us_per_row": micros}]


def plain_of(logits: torch.Tensor) -> torch.Tensor:
    return fastsample.sample(logits, **SETTING)


def penalised(logits: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """As vLLM does it: a count of every token of the vocabulary, then whole rows."""
    half = SEEN // 2
    counts = torch.zeros_like(logits).scatter_add_(1, seen[:, half:], torch.ones(seen[:, half:].shape))
    is_seen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, seen, True)
    x = torch.where(is_seen, torch.where(logits > 0, logits / 1.1, logits * 1.1), logits)
    return x - 0.1 * counts - 0.2 * (counts > 0)


if __name__ == "__main__":
    main()
