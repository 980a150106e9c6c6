"""A beam of partial texts on one shared prefix, against reading them again every round and against a kept cache.

    python bench/paths.py [--quick] [--measured 1,5,10] [--prepack]

The beam: n = 16 legs a round, m = 4 children of each of the 4 that are kept, ten legs of 40 tokens behind a prompt of
512, temperature 0.8. The scorer says the same of every leg, so that the first four are kept: what is measured is the
writing. All seconds are processor seconds of one thread, on SmolLM2-135M in float32.

    paths    fastsample: every leg is parked, and its children go on from it
    again    transformers' `generate`: the 16 texts are read again in every round
    kept     the plainest loop over a DynamicCache that is kept and reordered between rounds, and filled once

`paths` writes all rounds; of the others the rounds in --measured are timed, and compared with the same rounds of
`paths`. Before that, the last kept path is held against the model reading its whole text, and the forward passes are
counted: they must be the sum of the legs' lengths, and the prompt must be read once. The last line is JSON.

Then the same beam as a user asks for it, by `solve` with a head for its scorer: how much of the time is no forward pass
and no draw of a token, but parking, adding, scoring and keeping the books.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from hashlib import blake2b
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measure import machine

N, M = 16, 4
TEMPERATURE = 0.8


def stream_of(stream: int, position: int, k: int) -> int:
    """A child's stream: the path's own for the first, one of its own for every other."""
    text = f"{stream} {position} {k}".encode()
    return stream if k == 0 else int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 1


def beam(engine, prompt: tuple[int, ...], rounds: int, leg: int):
    """Write it; returns the seconds of each round and the legs of the last."""
    from fastsample.engines.base import Request

    asked = [Request(prompt, temperature=TEMPERATURE, stream=i, max_new_tokens=leg, eos=(), park=True)
             for i in range(N)]  # fmt: skip
    seconds, legs, parents = [], [], []
    for _ in range(rounds):
        start = time.process_time()
        legs = engine.submit(asked)
        engine.run()
        engine.release([s.parked for s in [*parents, *legs[N // M :]]])
        parents, asked = legs[: N // M], []
        for k in range(M):
            for s in parents:
                ids = (*s.request.prompt, *s.tokens)
                stream = stream_of(s.request.stream, len(ids), k)
                asked.append(Request(ids, after=s.parked, temperature=TEMPERATURE, stream=stream, max_new_tokens=leg,
                                     eos=(), park=True))  # fmt: skip
        seconds.append(time.process_time() - start)
    return seconds, legs


def check(engine, model, legs, prompt: int, rounds: int, leg: int) -> None:
    """Forward passes to the pass, and the logits behind the last kept path against its whole text."""
    if (engine.steps, engine.prefill_tokens) != (rounds * leg, prompt):
        raise SystemExit(f"{engine.steps} passes and {engine.prefill_tokens} tokens of prompt, wrong: nothing is told")
    first = legs[0]
    ids = (*first.request.prompt, *first.tokens)
    with torch.inference_mode():
        want = model(input_ids=torch.tensor([ids[:-1]])).logits[0, -1].log_softmax(-1)
    off = abs(float(want[ids[-1]]) - first.stats[-1].raw_logprob)
    if not off <= 1e-3:
        raise SystemExit(f"the last kept path is off by {off:.2g} nats: nothing is told")


def again(model, length: int, leg: int, texts: torch.Tensor) -> float:
    """Seconds of one round that reads texts of `length` tokens and writes a leg behind each."""
    ids = texts[:, :length]
    start = time.process_time()
    model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=TEMPERATURE, top_k=0,
                   max_new_tokens=leg, min_new_tokens=leg, pad_token_id=0)  # fmt: skip
    return time.process_time() - start


@torch.inference_mode()
def kept(model, length: int, leg: int, texts: torch.Tensor, *, is_first: bool) -> float:
    """Seconds of one round behind a cache of texts of `length` tokens, which is filled once, and only that is timed."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    start = time.process_time()
    logits = model(input_ids=texts[:1, :length], past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
    if not is_first:  # the cache is there already
        cache.reorder_cache(torch.zeros(N, dtype=torch.long))
        start = time.process_time()
    cache.reorder_cache(torch.arange(N) % (N // M) if not is_first else torch.zeros(N, dtype=torch.long))
    logits = logits.expand(N, -1)
    for _ in range(leg):
        tokens = torch.multinomial((logits.float() / TEMPERATURE).softmax(-1), 1)
        logits = model(input_ids=tokens, past_key_values=cache, use_cache=True).logits[:, -1]
    return time.process_time() - start


class Clock:
    """Seconds inside some functions, by name; one inside another counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.inner = [0.0]

    def timed(self, name: str, call):
        def run(*args, **kwargs):
            start = time.process_time()
            self.inner.append(0.0)
            try:
                return call(*args, **kwargs)
            finally:
                spent = time.process_time() - start
                self.seconds[name] = self.seconds.get(name, 0.0) + spent - self.inner.pop()
                self.inner[-1] += spent

        return run


def searched(model, prompt: tuple[int, ...], rounds: int, leg: int, *, prepack: bool) -> dict[str, object]:
    """The beam by `solve` and a head: seconds by what they were spent on, and the passes."""
    from fastsample import Question, Settings, solve_many
    from fastsample.engines.local import engine as module
    from fastsample.models.digest import digest_of
    from fastsample.scoring.head import Head
    from fastsample.training.heads import usual_layer

    width, layer = model.config.hidden_size, usual_layer(model)
    about = {"layer": layer, "width": width, "model": "", "digest": digest_of(model, layer)}
    head = Head(torch.zeros(width), torch.zeros(width), torch.ones(width), torch.tensor(0.0), about)
    engine = module.LocalEngine(model, None, slots=N, prepack=prepack)
    engine._eos = frozenset()  # every leg has its 40 tokens, as in the other ways
    clock, draw = Clock(), module.draw
    for name in ("step", "prefill", "park", "add", "keep"):
        setattr(engine.runner, name, clock.timed(name, getattr(engine.runner, name)))
    module.draw = clock.timed("draw", draw)
    object.__setattr__(head, "score", clock.timed("score", head.score))

    def run():
        asked = Question("", prompt=prompt)
        settings = Settings(max_new_tokens=rounds * leg)
        return next(iter(solve_many(model, None, [asked], settings=settings, engine=engine, scorer=head, is_strict=True,
                                    extractor=lambda text: "1",
                                    strategy=f"beam:n={N},m={M},until=,leg={leg},depth={rounds}")))  # fmt: skip

    try:
        found = clock.timed("books", run)()
    finally:
        module.draw = draw
    longest = [max(len(p.tokens) for p in found.paths if p.depth == depth) for depth in range(1, rounds + 1)]
    if (engine.steps, engine.prefill_tokens, found.depth) != (sum(longest), len(prompt), rounds):
        raise SystemExit(f"{engine.steps} passes, {engine.prefill_tokens} tokens of prompt: nothing is told")
    seconds = clock.seconds
    rest = sum(value for name, value in seconds.items() if name not in ("step", "prefill", "draw"))
    return {"seconds": seconds, "share": rest / sum(seconds.values()), "passes": engine.steps,
            "longest_legs": sum(longest)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="A beam on one shared prefix against transformers.")
    parser.add_argument("--quick", action="store_true", help="three legs of 8 tokens behind a prompt of 64")
    parser.add_argument("--measured", default=None, help="rounds of the peers that are timed, such as 1,5,10")
    parser.add_argument("--prepack", action="store_true")
    parser.add_argument("--rounds", type=int, default=None, help="fewer of them, where there is no time for ten")
    parser.add_argument("--peers", default="again,kept", help="those that are timed")
    given = parser.parse_args()
    prompt_tokens, rounds, leg = (64, 3, 8) if given.quick else (512, 10, 40)
    rounds = given.rounds or rounds
    chosen = given.measured or ("1,2,3" if given.quick else "1,5,10")
    measured = [int(r) for r in chosen.split(",")]
    if not all(1 <= r <= rounds for r in measured):
        parser.error(f"--measured must name rounds in [1, {rounds}], got {chosen}")

    from fastsample import models
    from fastsample.engines.local.engine import LocalEngine

    torch.set_num_threads(1)
    model, _ = models.load(progress=lambda line: None)
    draws = torch.Generator().manual_seed(0)
    texts = torch.randint(100, 40000, (N, prompt_tokens + rounds * leg), generator=draws)
    prompt = tuple(texts[0, :prompt_tokens].tolist())
    engine = LocalEngine(model, None, slots=N, prepack=given.prepack)
    model(input_ids=texts[:1, :8])
    seconds, legs = beam(engine, prompt, rounds, leg)
    check(engine, model, legs, prompt_tokens, rounds, leg)
    print(f"{rounds} rounds of {N} legs of {leg} tokens behind {prompt_tokens}: {engine.steps} forward passes, "
          f"{engine.prefill_tokens} tokens of prompt read, {sum(seconds):.1f} s\n")  # fmt: skip
    peers = given.peers.split(",")
    print(f"{'round':>5} {'paths s':>8} " + " ".join(f"{peer + ' s':>8}" for peer in peers))
    table = []
    for r in measured:
        length = prompt_tokens + (r - 1) * leg
        row = {"round": r, "paths": seconds[r - 1]}
        if "again" in peers:
            row["again"] = again(model, length, leg, texts)
        if "kept" in peers:
            row["kept"] = kept(model, length, leg, texts, is_first=r == 1)
        table.append(row)
        print(f"{r:5} {row['paths']:8.2f} " + " ".join(f"{row[peer]:8.2f}" for peer in peers), flush=True)
    ratios = {peer: sum(row[peer] for row in table) / sum(row["paths"] for row in table) for peer in peers}
    print(f"{'times':>5} {1:8.2f} " + " ".join(f"{ratios[peer]:8.2f}" for peer in peers))
    books = searched(model, prompt, rounds, leg, prepack=given.prepack)
    print(f"\nby solve and a head: {books['passes']} forward passes; the longest legs of all rounds have "
          f"{books['longest_legs']}; neither pass nor draw: {books['share']:.1%} of the time")  # fmt: skip
    print("  " + ", ".join(f"{name} {value:.2f} s" for name, value in sorted(books["seconds"].items())))
    print(json.dumps({"books": books, "machine": machine(), "passes": engine.steps,
                      "prefill_tokens": engine.prefill_tokens, "seconds": seconds, "measured": table,
                      "ratios": ratios, "prepack": given.prepack}))  # fmt: skip


if __name__ == "__main__":
    main()
