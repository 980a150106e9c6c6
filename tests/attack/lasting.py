"""What is only seen after long or at the end: memory over ten thousand tokens, forks, new processes, threads.

Every turn holds the tokens of an engine against those of the same requests alone, in a process or a thread of another
kind, or watches the memory of a long run.
"""

from __future__ import annotations

import ctypes
import gc
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from plain import write
from tiny import tiny

from attack.turns import MissingError
from fastsample.engines.base import Request
from fastsample.engines.local.engine import LocalEngine

WHAT = "forks after use, new processes, two and sixteen threads at once, memory over ten thousand tokens"
COUNTED = "processes and threads"
NAMES = ("llama", "mistral", "gemma2", "gpt2")
PROMPT, THREADS, ROUNDS, TOKENS, ALLOWED = (1, 17, 44, 80, 9, 33), 16, 10, 10_000, 6 << 20
CHILD = """
import sys
from attack import lasting
model = lasting.prepare(None).models[sys.argv[1]]
print(*lasting.written(model), sep="\\n")
"""


class Prepared(NamedTuple):
    """Tiny models, and what each writes alone."""

    models: dict[str, torch.nn.Module]
    alone: dict[str, list[list[int]]]


def requests() -> list[Request]:
    """Six samples of one prompt."""
    return [Request(PROMPT, temperature=t, seed=7, stream=i, max_new_tokens=10, eos=())
            for i, t in enumerate((0.0, 0.7, 1.3, 1.0, 0.5, 2.0))]  # fmt: skip


def written(model: torch.nn.Module) -> list[list[int]]:
    """What an engine of its own writes."""
    engine = LocalEngine(model, None, slots=4)
    samples = engine.submit(requests())
    engine.run()
    return [s.tokens for s in samples]


def prepare(place: Path | None) -> Prepared:
    """The models; without a place, for a child, nothing is written yet."""
    if not hasattr(os, "fork"):
        raise MissingError("this system has no fork")
    torch.set_num_threads(1)
    models = {name: tiny(name) for name in NAMES}
    alone = {n: [write(m, r, eos=()) for r in requests()] for n, m in models.items()} if place else {}
    return Prepared(models, alone)


def forks(prepared: Prepared, name: str, choose: random.Random) -> int:
    """Children of a process that has written, some of them at once, each of which writes the same."""
    assert written(prepared.models[name]) == prepared.alone[name]
    children = []
    for _ in range(choose.randint(1, 4)):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = int(written(prepared.models[name]) != prepared.alone[name])
            finally:
                os._exit(code)
        children.append(child)
    assert written(prepared.models[name]) == prepared.alone[name]
    codes = [os.waitpid(child, 0)[1] for child in children]
    assert not any(codes), codes
    return len(children)


def spawned(prepared: Prepared, name: str, choose: random.Random) -> int:
    """A process that starts anew writes the same, and ends without a word."""
    done = subprocess.run([sys.executable, "-c", CHILD, name], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [str(tokens) for tokens in prepared.alone[name]]
    return 1


def threads(prepared: Prepared, name: str, choose: random.Random) -> int:
    """Sixteen threads with an engine each, over one model or over several."""
    at_once(prepared, [name if choose.random() < 0.5 else choose.choice(NAMES) for _ in range(THREADS)])
    return THREADS


def pairs(prepared: Prepared, name: str, choose: random.Random) -> int:
    """Two threads with an engine each, round after round: over one model, and over two."""
    for other in (name, choose.choice([n for n in NAMES if n != name])):
        for _ in range(ROUNDS):
            at_once(prepared, [name, other])
    return 4 * ROUNDS


def at_once(prepared: Prepared, names: list[str]) -> None:
    """An engine of each of these models in a thread of its own, all started at the same moment."""
    found: list[object] = [None] * len(names)
    barrier = threading.Barrier(len(names))

    def run(i: int) -> None:
        barrier.wait()
        try:
            found[i] = written(prepared.models[names[i]])
        except BaseException as error:
            found[i] = error

    started = [threading.Thread(target=run, args=(i,)) for i in range(len(names))]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    for name, tokens in zip(names, found):
        assert tokens == prepared.alone[name], (name, tokens)


def memory(prepared: Prepared, name: str, choose: random.Random) -> int:
    """One engine writes ten thousand tokens in samples that come and go; behind the first tenth it takes no more."""
    engine = LocalEngine(prepared.models[name], None, slots=8)
    before, done, stream = 0, 0, 0
    while done < TOKENS:
        engine.submit([Request(PROMPT, seed=7, stream=stream + i, max_new_tokens=16, eos=()) for i in range(8)])
        stream += 8
        done += sum(len(s.tokens) for s in engine.run())
        if not before and done >= TOKENS // 10:
            before = held()
    grown = held() - before
    assert grown < ALLOWED, f"{name}: {grown:,} bytes more after {done:,} tokens"
    return 1


def held() -> int:
    """Bytes of memory that this process holds, without garbage and what the allocator keeps of memory that is free."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


KINDS = {forks: 10, threads: 6, pairs: 3, spawned: 1, memory: 1}


def turn(prepared: Prepared, choose: random.Random) -> Counter[str]:
    """One of them, by one of the models."""
    (kind,) = choose.choices(list(KINDS), list(KINDS.values()))
    found = kind(prepared, choose.choice(NAMES), choose)
    more = {"tokens with flat memory": TOKENS} if kind is memory else {}
    more |= {"rounds of two threads": 2 * ROUNDS} if kind is pairs else {}
    return Counter({"processes and threads": found, kind.__name__: found} | more)
